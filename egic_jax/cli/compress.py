"""`egic compress`: photographs to .egic files."""

import argparse
import time
from collections.abc import Sequence

from egic_jax.cli import file_lists, models, part_progress


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic compress",
    description="Compress photographs of any size to .egic files.",
    epilog="Example: egic compress photo.jpg --model runs/tiny",
  )
  file_lists.add_arguments(parser, "pictures", "NAME.egic")
  models.add_argument(parser)
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  pairs = file_lists.plan(args.inputs, args.output, ".egic", args.force)
  codec = models.open_codec(args.model)

  from egic_jax import images

  def convert(source: str, target: str) -> str:
    image = images.read(file_lists.read(source))
    progress = part_progress.PartProgress(source)
    start = time.perf_counter()
    data = codec.encode(image, progress=progress)
    seconds = time.perf_counter() - start
    file_lists.write(target, data)
    height, width = image.shape[:2]
    return (
      f"{source} > {target}: {width}x{height}, {len(data):,} bytes,"
      f" {8 * len(data) / (height * width):.3f} bpp, {seconds:.1f} s"
    )

  return file_lists.each("compress", pairs, convert)
