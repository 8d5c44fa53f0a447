"""Puts a model into the package: float16, described, and the default.

    python experiments/ship_small/ship.py runs/orp --name NAME \
        --description "one line" [--compared runs/compare/kodak/compare.json]

Takes a work directory or a model file. Models that were shipped before stay, so
that their files can be decoded.
"""

import argparse
import dataclasses
import json
import pathlib

from egic_jax import atomic_files
from egic_jax.bitstream import model_file
from egic_jax.cli import models
from egic_jax.shipped import catalog

_MOST_BYTES = 16 << 20


def make_parser() -> argparse.ArgumentParser:
  """The script's arguments."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("model", help="work directory or model file")
  parser.add_argument("--name", required=True)
  parser.add_argument("--description", required=True, help="one line")
  parser.add_argument(
    "--compared",
    type=pathlib.Path,
    help="compare.json of compare.py for this very model: its mean bpp",
  )
  return parser


def ship(args: argparse.Namespace) -> pathlib.Path:
  """Writes the model and makes it the default; returns its file.

  Raises:
    ValueError: another model of this name is shipped already, or the file is
      too large, or the comparison is of another model.
  """
  source = models.open_model(args.model)
  metadata = source.metadata | {"description": args.description}
  model = model_file.build_model(
    source.config, source.params, metadata, half=True
  )
  fingerprint = model.fingerprint.hex()
  if args.compared:
    found = json.loads(args.compared.read_text())
    if found["model"] != fingerprint:
      raise ValueError(
        f"{args.compared}: is of model {found['model']}, this is {fingerprint}"
      )
    # The same bytes whatever the alpha.
    ours = next(k for k in found["curves"] if k.startswith("egic"))
    means = [round(point["bpp"], 4) for point in found["curves"][ours]]
    metadata = model.metadata | {"bpp": json.dumps(means)}
    model = dataclasses.replace(model, metadata=metadata)
  before = catalog.find(args.name)
  if before is not None and before.fingerprint != fingerprint:
    raise ValueError(
      f"{args.name} is shipped already, as model {before.fingerprint}; files"
      " need it: choose another name"
    )
  path = catalog.directory() / f"{args.name}{catalog.SUFFIX}"
  model_file.save_model(path, model)
  if path.stat().st_size >= _MOST_BYTES:
    path.unlink()
    raise ValueError(f"{args.name} takes more than 16 MiB")
  atomic_files.write_bytes(
    path.parent / catalog.DEFAULT_FILE, f"{args.name}\n".encode()
  )
  print(f"{path}: model {fingerprint}, {path.stat().st_size:,} bytes")
  return path


if __name__ == "__main__":
  try:
    ship(make_parser().parse_args())
  except (OSError, ValueError) as error:
    raise SystemExit(f"ship: error: {error}") from None
