"""What models lie in this directory, read from their headers alone.

A model is a file of `bitstream.model_file`, NAME.safetensors. `default.txt` holds
the name of the one that is taken where none is named; a model that is replaced
stays, so that its files can be decoded. Of a model's metadata, "description" (a
line) and "bpp" (JSON: mean bits per pixel at quality 1, 2, ...) are shown.
"""

import dataclasses
import json
import math
import os
import pathlib

# A directory to look in instead of this one.
VARIABLE = "EGIC_SHIPPED_MODELS"
SUFFIX = ".safetensors"
DEFAULT_FILE = "default.txt"

_MAX_HEADER_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class ShippedModel:
  """A model file, without its tensors.

  Attributes:
    name: what `--model` calls it.
    path: the file.
    fingerprint: 16 hexadecimal digits, as in the files it makes.
    parameters: their number, those of an ORP head included.
    size_bytes: of the file.
    levels: of quality, which runs from 1 to this; 0 for one rate.
    bpp: mean bits per pixel at quality 1, 2, ... or of the one rate; empty where
      not known.
    description: a line, or nothing.
  """

  name: str
  path: pathlib.Path
  fingerprint: str
  parameters: int
  size_bytes: int
  levels: int
  bpp: tuple[float, ...]
  description: str


def directory() -> pathlib.Path:
  """Where models are looked for: this directory, unless `VARIABLE` is set."""
  return pathlib.Path(os.environ.get(VARIABLE) or pathlib.Path(__file__).parent)


def models() -> list[ShippedModel]:
  """All models, by name; ValueError in one line if a file is no model."""
  return [_describe(path) for path in sorted(directory().glob(f"*{SUFFIX}"))]


def find(name: str) -> ShippedModel | None:
  """The model of this name, if there is one."""
  return next((model for model in models() if model.name == name), None)


def find_by_fingerprint(fingerprint: str) -> ShippedModel | None:
  """The model that made a file with this fingerprint, if there is one."""
  found = (model for model in models() if model.fingerprint == fingerprint)
  return next(found, None)


def default() -> ShippedModel:
  """The model that is taken where none is named.

  Raises:
    ValueError: in one line, if there is none.
  """
  place = directory() / DEFAULT_FILE
  try:
    name = place.read_text().strip()
  except OSError:
    name = ""
  if not name:
    raise ValueError(
      "no model was named and none comes with this installation: name one with"
      " --model, or in the environment with EGIC_MODEL"
    )
  model = find(name)
  if model is None:
    raise ValueError(f"{place} names a model {name!r} that does not exist")
  return model


def _describe(path: pathlib.Path) -> ShippedModel:
  try:
    header = _header(path)
    metadata = header.pop("__metadata__")
    config = json.loads(metadata["config"])
    return ShippedModel(
      name=path.name.removesuffix(SUFFIX),
      path=path,
      fingerprint=metadata["fingerprint"],
      parameters=sum(
        math.prod(tensor["shape"])
        for name, tensor in header.items()
        if not name.startswith("tables/")
      ),
      size_bytes=path.stat().st_size,
      levels=config.get("rate_levels", 0),
      bpp=tuple(map(float, json.loads(metadata.get("bpp", "[]")))),
      description=metadata.get("description", ""),
    )
  except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(
      f"model file {path}: is none, or is damaged: {' '.join(str(error).split())}"
    ) from error


def _header(path: pathlib.Path) -> dict:
  """A safetensors file's header: its length in 8 bytes, then JSON."""
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if length > _MAX_HEADER_BYTES:
      raise ValueError(f"its header is said to have {length} bytes")
    return json.loads(file.read(length))
