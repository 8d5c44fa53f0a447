"""`egic import-official`: weights of the official release to a file of ours."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from egic_jax import runtime


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic import-official",
    description="Turn weights of the official TensorFlow release into a file"
    " of ours: those of the codec, or of the codec with ORP, into a model file,"
    " which every command takes and train.init_from too; those of the"
    " discriminator into one for train.init_discriminator.",
  )
  parser.add_argument(
    "weights",
    metavar="WEIGHTS",
    help="a .npz of arrays under their official names, or the prefix of a"
    " TensorFlow checkpoint (needs TensorFlow)",
  )
  parser.add_argument(
    "--to", required=True, metavar="FILE", help="such as egic.safetensors"
  )
  parser.add_argument(
    "--preset",
    default="full",
    help="size of the network (default: full, the official one)",
  )
  parser.add_argument(
    "--discriminator",
    action="store_true",
    help="take the discriminator, for train.init_discriminator",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  runtime.configure()
  write = _write_discriminator if args.discriminator else _write_codec
  what = write(args.weights, args.to, args.preset)
  print(f"{args.to}: {what}, {os.path.getsize(args.to):,} bytes")
  return 0


def _write_codec(weights: str, path: str, preset: str) -> str:
  """Writes the model file; returns a description of it."""
  from egic_jax.bitstream import model_file
  from egic_jax.interop import official
  from egic_jax.models import presets

  config = presets.get_preset(preset)
  arrays = official.read_arrays(weights)
  if not any(name.startswith(official.PARTS) for name in arrays):
    raise ValueError(
      f"{weights} holds no codec of the official release; for its"
      " discriminator give --discriminator"
    )
  params = official.from_official(arrays, config)
  model = model_file.build_model(config, params, {"source": _source(arrays)})
  model_file.save_model(path, model)
  parts = "codec and ORP" if "orp" in params else "codec"
  return f"{parts}, {len(arrays)} arrays, model {model.fingerprint.hex()}"


def _write_discriminator(weights: str, path: str, preset: str) -> str:
  """Writes the discriminator's file; returns a description of it."""
  from egic_jax.interop import official_discriminator
  from egic_jax.models.discriminators import presets
  from egic_jax.training import discriminator_file

  config = presets.get_preset(preset)
  arrays = official_discriminator.read_arrays(weights)
  if not official_discriminator.names(config).keys() & arrays.keys():
    raise ValueError(
      f"{weights} holds no discriminator of the official release; for its"
      " codec leave out --discriminator"
    )
  params = official_discriminator.from_official(arrays, config)
  discriminator_file.save(
    path, config, params["discriminator"], _source(arrays)
  )
  return f"discriminator of {config.num_classes} classes, {len(arrays)} arrays"


def _source(arrays: Mapping[str, Any]) -> str:
  return f"official weights, {len(arrays)} arrays"
