"""From a model's name on the command line to the model."""

import argparse
import os
import pathlib

from egic_jax import runtime
from egic_jax.shipped import catalog


def add_argument(
  parser: argparse.ArgumentParser, by_file: bool = False
) -> None:
  """Adds --model; EGIC_MODEL in the environment is its default.

  Args:
    parser: to add it to.
    by_file: whether the command reads .egic files, which say by what model they
      were made.
  """
  default = os.environ.get("EGIC_MODEL")
  shipped = "the shipped model that made the file" if by_file else "the default"
  parser.add_argument(
    "--model",
    metavar="MODEL",
    default=default,
    help="a model of `egic models`, a work directory of `egic train` or a model"
    f" file of `egic export` (default: {default or f'$EGIC_MODEL, or {shipped}'})",
  )


def add_precision(parser: argparse.ArgumentParser, effect: str) -> None:
  """Adds --precision; `effect` says what else bfloat16 does."""
  parser.add_argument(
    "--precision",
    choices=("auto", "float32", "bfloat16"),
    default="auto",
    help=f"bfloat16: {effect}, and large models are faster where the processor"
    " has instructions for it (default: auto, which is float32 on a CPU and"
    " bfloat16 on a GPU or TPU)",
  )


def open_model(name: str | os.PathLike | None):
  """The model of this name.

  Args:
    name: a directory that `egic train` wrote, whose newest good checkpoint is
      taken; a file that `egic export` wrote; a shipped model, unless there is
      such a file or directory; None for the default of the shipped models.

  Returns:
    bitstream.model_file.Model.

  Raises:
    ValueError, OSError: in one line, if there is no usable model.
  """
  path = catalog.default().path if name is None else _path(name)
  runtime.configure()
  from egic_jax.bitstream import model_file

  if not path.is_dir():
    return model_file.load_model(path)
  # Orbax is imported only here: a model file needs none of it.
  from egic_jax.training import checkpoints

  config, params, step = checkpoints.load_parameters(path)
  return model_file.build_model(config, params, {"step": str(step)})


def open_codec(name: str | os.PathLike | None, precision: str = "auto"):
  """An ImageCodec of the model; see `open_model` and `ImageCodec.from_model`."""
  model = open_model(name)
  from egic_jax.bitstream import codec

  return codec.ImageCodec.from_model(model, precision)


def shipped_model_of(data: bytes) -> catalog.ShippedModel:
  """The shipped model that made an `.egic` file.

  Raises:
    ValueError: in one line, if it is no `.egic` file, or made by none of them.
  """
  from egic_jax.bitstream import container

  fingerprint = container.unpack(data, max_pixels=None).fingerprint.hex()
  model = catalog.find_by_fingerprint(fingerprint)
  if model is None:
    raise ValueError(
      f"the file was made by model {fingerprint}, which is none of the shipped"
      " ones (see egic models): name it with --model"
    )
  return model


class FileCodecs:
  """The codec of each file: of the model named, or of the one that made it."""

  def __init__(self, name: str | os.PathLike | None, precision: str = "auto"):
    """Opens the model of this name at once; None for those shipped."""
    self._named = None if name is None else open_codec(name, precision)
    self._precision = precision
    self._opened = {}

  def of(self, data: bytes):
    """The ImageCodec for a file's content; raises as `shipped_model_of`."""
    if self._named is not None:
      return self._named
    path = shipped_model_of(data).path
    if path not in self._opened:
      self._opened[path] = open_codec(path, self._precision)
    return self._opened[path]


def _path(name: str | os.PathLike) -> pathlib.Path:
  path = pathlib.Path(name)
  if path.exists():
    return path
  model = catalog.find(os.fspath(name))
  if model is not None:
    return model.path
  names = ", ".join(model.name for model in catalog.models()) or "none"
  raise ValueError(
    f"no model file or work directory {os.fspath(name)}, nor a shipped model of"
    f" this name (there are: {names})"
  )
