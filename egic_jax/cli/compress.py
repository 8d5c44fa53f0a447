"""`egic compress`: photographs to .egic files."""

import argparse
import time
from collections.abc import Sequence

from egic_jax.cli import file_lists, models, part_progress

# What `ImageCodec.encode_to` calls its arguments > what they are called here.
_OPTIONS = {"max_bytes": "--bytes", "bpp": "--bpp"}


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic compress",
    description="Compress photographs of any size to .egic files.",
    epilog="Example: egic compress photo.jpg --bpp 0.2",
  )
  file_lists.add_arguments(parser, "pictures", "NAME.egic")
  models.add_argument(parser)
  models.add_precision(
    parser, "files differ slightly, and decode everywhere as well"
  )
  rate = parser.add_mutually_exclusive_group()
  rate.add_argument(
    "--quality",
    type=float,
    metavar="Q",
    help="from 1, the smallest files, to the highest that `egic models` tells;"
    " fractions too (default: the middle)",
  )
  rate.add_argument(
    "--bpp",
    type=float,
    metavar="B",
    help="make each file's bits per pixel this many, or nearly",
  )
  rate.add_argument(
    "--bytes",
    type=int,
    metavar="N",
    help="make each file as good as N bytes allow, never larger",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  pairs = file_lists.plan(args.inputs, args.output, ".egic", args.force)
  codec = models.open_codec(args.model, args.precision)
  quality = codec.nearest_quality(args.quality)  # Refuses it before any work.

  from egic_jax import images

  def convert(source: str, target: str) -> str:
    image = images.read(file_lists.read(source))
    progress = part_progress.PartProgress(source)
    start = time.perf_counter()
    if args.bpp is None and args.bytes is None:
      data = codec.encode(image, quality, progress=progress)
      note = "" if quality is None else f", quality {quality:.2f}"
    else:
      try:
        fitted = codec.encode_to(
          image, max_bytes=args.bytes, bpp=args.bpp, progress=progress
        )
      except ValueError as error:
        raise ValueError(_with_options(str(error))) from error
      data, note = fitted.data, f", quality {fitted.quality:.2f}"
      note += ", the highest there is" if fitted.at_highest else ""
    seconds = time.perf_counter() - start
    file_lists.write(target, data)
    height, width = image.shape[:2]
    return (
      f"{source} > {target}: {width}x{height}, {len(data):,} bytes,"
      f" {8 * len(data) / (height * width):.3f} bpp{note},"
      f" {seconds:.1f} s"
    )

  return file_lists.each("compress", pairs, convert)


def _with_options(text: str) -> str:
  """An error of `ImageCodec.encode_to`; its argument named as the option."""
  name, verb, rest = text.partition(" is ")
  return f"{_OPTIONS.get(name, name)}{verb}{rest}"
