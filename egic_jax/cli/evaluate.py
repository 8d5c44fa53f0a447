"""`egic evaluate`: bit rates and quality on a folder of pictures."""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Sequence

from egic_jax import atomic_files
from egic_jax.cli import models

_COLUMNS = (
  ("picture", 28),
  ("size", 11),
  ("bytes", 9),
  ("bpp", 8),
  ("est. bpp", 8),
  ("PSNR", 7),
  ("MS-SSIM", 8),
  ("enc s", 7),
  ("dec s", 7),
)


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic evaluate",
    description="Compress and decompress every picture of a folder; report"
    " real and estimated bits per pixel, PSNR and MS-SSIM.",
  )
  parser.add_argument(
    "--images", required=True, metavar="DIR", help="folder of pictures"
  )
  models.add_argument(parser)
  models.add_precision(parser, "sizes and quality differ in the last digits")
  parser.add_argument(
    "--alpha", type=float, default=1.0, help="see egic decompress"
  )
  parser.add_argument(
    "--quality",
    type=numbers,
    metavar="Q[,Q...]",
    help="see egic compress; of several, each is a row of the table, and the"
    " pictures are in the JSON only",
  )
  parser.add_argument("--json", metavar="FILE", help="also write JSON here")
  parser.add_argument(
    "--save",
    metavar="DIR",
    help="also write each picture beside its reconstruction here",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  from egic_jax.evaluation import folder

  paths = folder.find_pictures(args.images)
  codec = models.open_codec(args.model, args.precision)
  qualities = [codec.nearest_quality(q) for q in args.quality or [None]]
  if args.save:
    pathlib.Path(args.save).mkdir(parents=True, exist_ok=True)

  several = len(qualities) > 1
  print(_row([title for title, _ in _COLUMNS]))
  runs, small = [], 0
  for quality in qualities:
    results = []
    visit = None
    if args.save:
      visit = _save_beside(args.save, f"_{quality:.2f}" if several else "")
    for result in folder.evaluate(
      codec, paths, alpha=args.alpha, quality=quality, visit=visit
    ):
      results.append(result)
      if not several:
        print(_row(_cells(result)), flush=True)
    total = folder.mean(results)
    name = f"quality {quality:.2f}" if several else total.name
    print(_row([name, "", *_cells(total)[2:]]), flush=True)
    small = sum(math.isnan(result.ms_ssim) for result in results)
    runs.append(
      {
        "mean": _record(total),
        "pictures": [_record(result) for result in results],
      }
    )
    if quality is not None:
      runs[-1] = {"quality": quality, **runs[-1]}
  if small:
    print(
      f"egic evaluate: {small} pictures are too small for MS-SSIM and not in"
      " its mean",
      file=sys.stderr,
    )
  if args.json:
    report = {
      "model": codec.fingerprint.hex(),
      "precision": codec.precision,
      "alpha": args.alpha,
    }
    # A model of one rate has one run, and no quality to name it by.
    report |= runs[0] if codec.quality_range is None else {"qualities": runs}
    text = json.dumps(report, indent=2) + "\n"
    atomic_files.write_bytes(args.json, text.encode())
  return 0


def numbers(text: str) -> list[float]:
  """Numbers with commas between them; argparse quotes this function's name."""
  return [float(number) for number in text.split(",")]


def _cells(result) -> list[str]:
  return [
    result.name,
    f"{result.width}x{result.height}",
    f"{result.bytes:.0f}",
    f"{result.bpp:.4f}",
    f"{result.estimated_bpp:.4f}",
    f"{result.psnr:.2f}",
    f"{result.ms_ssim:.4f}",
    f"{result.encode_seconds:.2f}",
    f"{result.decode_seconds:.2f}",
  ]


def _row(cells: Sequence[str]) -> str:
  first, *rest = zip(cells, _COLUMNS, strict=True)
  return f"{first[0]:<{first[1][1]}}" + "".join(
    f" {cell:>{width}}" for cell, (_, width) in rest
  )


def _record(result) -> dict:
  """JSON has no nan and no infinity: null stands for either."""
  return {
    key: None
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for key, value in dataclasses.asdict(result).items()
  }


def _save_beside(directory: str, suffix: str):
  import numpy as np

  from egic_jax import images

  def save(path, original, decoded):
    gap = np.full((original.shape[0], 8, 3), 255, np.uint8)
    picture = np.concatenate([original, gap, decoded], axis=1)
    images.write(pathlib.Path(directory) / f"{path.stem}{suffix}.png", picture)

  return save
