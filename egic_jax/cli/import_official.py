"""`egic import-official`: weights of the official release to a model file."""

import argparse
import os
from collections.abc import Sequence

from egic_jax import runtime


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic import-official",
    description="Turn weights of the official TensorFlow release, of the codec"
    " or of the codec with ORP, into a model file.",
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
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  runtime.configure()
  from egic_jax.bitstream import model_file
  from egic_jax.interop import official
  from egic_jax.models import presets

  config = presets.get_preset(args.preset)
  arrays = official.read_arrays(args.weights)
  params = official.from_official(arrays, config)
  model = model_file.build_model(
    config, params, {"source": f"official weights, {len(arrays)} arrays"}
  )
  model_file.save_model(args.to, model)
  parts = "codec and ORP" if "orp" in params else "codec"
  print(
    f"{args.to}: {parts}, {len(arrays)} arrays, model"
    f" {model.fingerprint.hex()}, {os.path.getsize(args.to):,} bytes"
  )
  return 0
