"""From a model's name on the command line to the model."""

import argparse
import os
import pathlib

from egic_jax import runtime


def add_argument(
  parser: argparse.ArgumentParser, required: bool = True
) -> None:
  """Adds --model; EGIC_MODEL in the environment is its default."""
  default = os.environ.get("EGIC_MODEL")
  parser.add_argument(
    "--model",
    metavar="MODEL",
    default=default,
    required=required and not default,
    help="a work directory of `egic train` or a model file of `egic export`"
    + (f" (default: {default})" if default else " (default: $EGIC_MODEL)"),
  )


def open_model(name: str):
  """The model of a work directory or a model file.

  Args:
    name: a directory that `egic train` wrote, whose newest good checkpoint is
      taken, or a file that `egic export` wrote.

  Returns:
    bitstream.model_file.Model.

  Raises:
    ValueError, OSError: in one line, if there is no usable model.
  """
  runtime.configure()
  from egic_jax.bitstream import model_file

  path = pathlib.Path(name)
  if not path.is_dir():
    return model_file.load_model(path)
  # Orbax is imported only here: a model file needs none of it.
  from egic_jax.training import checkpoints

  config, params, step = checkpoints.load_parameters(path)
  return model_file.build_model(config, params, {"step": str(step)})


def open_codec(name: str):
  """An ImageCodec of the model; see `open_model`."""
  model = open_model(name)
  from egic_jax.bitstream import codec

  return codec.ImageCodec.from_model(model)
