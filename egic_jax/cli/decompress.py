"""`egic decompress`: .egic files to pictures."""

import argparse
import time
from collections.abc import Sequence

from egic_jax.cli import file_lists, models, part_progress


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic decompress",
    description="Decompress .egic files to pictures (PNG unless OUT says else).",
    epilog="Example: egic decompress photo.egic -o back.png",
  )
  file_lists.add_arguments(parser, ".egic files", "NAME.png")
  models.add_argument(parser, by_file=True)
  parser.add_argument(
    "--alpha",
    type=float,
    default=1.0,
    help="1: most realistic, 0: least distortion, or between; the file is the"
    " same (default: 1; needs a model with an ORP head)",
  )
  models.add_precision(
    parser, "values of the picture may be a level or two off"
  )
  parser.add_argument(
    "--max-pixels",
    type=int,
    metavar="N",
    help="refuse files that declare more pixels (default: 2**28)",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  pairs = file_lists.plan(args.inputs, args.output, ".png", args.force)

  from egic_jax import images

  for _, target in pairs:
    if target != file_lists.STREAM:
      images.save_options(target)  # Refuses a suffix before any work.
  codecs = models.FileCodecs(args.model, args.precision)
  from egic_jax.bitstream import container

  limit = args.max_pixels
  if limit is None:
    limit = container.DEFAULT_MAX_PIXELS

  def convert(source: str, target: str) -> file_lists.Unwritten:
    data = file_lists.read(source)
    progress = part_progress.PartProgress(source)
    start = time.perf_counter()
    codec = codecs.of(data)
    image = codec.decode(data, args.alpha, max_pixels=limit, progress=progress)
    seconds = time.perf_counter() - start

    def write():
      if target == file_lists.STREAM:
        file_lists.write(target, images.encode(image))
      else:
        images.write(target, image)

    return file_lists.Unwritten(
      f"{source} > {target}: {image.shape[1]}x{image.shape[0]},"
      f" {seconds:.1f} s",
      write,
      image.nbytes,
    )

  return file_lists.each("decompress", pairs, convert)
