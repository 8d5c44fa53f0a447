"""`egic export`: a work directory to one model file."""

import argparse
import os
from collections.abc import Sequence

from egic_jax.cli import models


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic export",
    description="Write the newest good checkpoint of a work directory as one"
    " file, which compresses and decompresses without training code.",
  )
  parser.add_argument("workdir", metavar="WORKDIR", help="of `egic train`")
  parser.add_argument(
    "--to", required=True, metavar="FILE", help="such as model.safetensors"
  )
  parser.add_argument(
    "--half",
    action="store_true",
    help="round parameters to float16, for a file of half the size: another"
    " model, whose .egic files need it to be read",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  if not os.path.isdir(args.workdir):
    raise ValueError(f"{args.workdir} is no work directory")
  model = models.open_model(args.workdir)
  from egic_jax.bitstream import model_file

  if args.half:
    model = model_file.build_model(
      model.config, model.params, model.metadata, half=True
    )
  model_file.save_model(args.to, model)
  print(
    f"{args.to}: model {model.fingerprint.hex()},"
    f" step {model.metadata['step']}, {os.path.getsize(args.to):,} bytes"
  )
  return 0
