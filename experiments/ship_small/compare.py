"""A model beside JPEG, WebP, AVIF and HEVC on a folder of pictures.

    python experiments/ship_small/compare.py --images KODAK --model MODEL \
        --to runs/compare --cache runs/classical.json

Real bytes of whole files. Writes compare.md (tables), compare.json (all numbers),
curves.png and equal_bytes.jpg (crops, where the pictures are known ones) into the
folder --to. The classical codecs are measured once: --cache keeps their part.
Needs pip install 'egic_jax[comparison]'.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import classical
import equal_bytes
import rate_difference
import report
import scores

from egic_jax import atomic_files, images
from egic_jax.bitstream import codec as codec_lib
from egic_jax.cli import models
from egic_jax.evaluation import folder
from egic_jax.evaluation import quality as metrics
from egic_jax.shipped import catalog

ALPHAS = (0.0, 0.5, 1.0)
PATH = tuple(np.arange(11) / 10)
METRICS = ("psnr", "ms_ssim_db")


def our_scores(
  codec: codec_lib.ImageCodec,
  paths: Sequence[pathlib.Path],
  qualities: Sequence[float | None],
  outputs: dict[str, float],
) -> dict[str, dict[float | None, dict[str, dict[str, float]]]]:
  """Scores of our files, as `classical.curves` returns them.

  Args:
    codec: ours.
    paths: pictures.
    qualities: of encoding; [None] for a model of one rate.
    outputs: how the outputs are called > alpha of decoding.
  """
  found = {name: {q: {} for q in qualities} for name in outputs}
  for path in paths:
    original = images.read(path)
    for quality in qualities:
      data = codec.encode(original, quality)
      for name, alpha in outputs.items():
        decoded = codec.decode(data, alpha)
        found[name][quality][path.name] = scores.score(
          original, decoded, len(data)
        )
    print(f"{path.name}: done", flush=True)
  return found


def alpha_path(
  codec: codec_lib.ImageCodec,
  paths: Sequence[pathlib.Path],
  quality: float | None,
) -> dict[str, Any]:
  """PSNR and gradient energy from alpha 0 to 1, and whether it is smooth."""
  rows, bpp = [], []
  for path in paths:
    original = images.read(path)
    data = codec.encode(original, quality)
    bpp.append(8 * len(data) / (original.shape[0] * original.shape[1]))
    energy = scores.gradient_energy(original)
    decoded = [codec.decode(data, float(alpha)) for alpha in PATH]
    rows.append(
      [
        (metrics.psnr(original, d), scores.gradient_energy(d) / energy)
        for d in decoded
      ]
    )
  psnr, gradient = np.mean(rows, axis=0).T
  return {
    "quality": quality,
    "bpp": float(np.mean(bpp)),
    "largest_rise_db": float(max(0, np.max(np.diff(psnr)))),
    "span_db": float(psnr[0] - psnr[-1]),
    "largest_bend_db": float(np.max(np.abs(np.diff(psnr, 2)))),
    "points": [
      {"alpha": float(a), "psnr": float(p), "gradient": float(g)}
      for a, p, g in zip(PATH, psnr, gradient, strict=True)
    ],
  }


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], Any]:
  """All of a comparison; returns (what is written as JSON, panel or None)."""
  paths = folder.find_pictures(args.images)
  model = models.open_model(args.model)
  codec = codec_lib.ImageCodec.from_model(model)
  levels = model.config.rate_levels
  qualities = args.qualities or (
    [float(level) for level in range(1, levels + 1)] if levels else [None]
  )
  outputs = {"egic": 1.0}
  if "orp" in model.params:
    outputs = {f"egic alpha {alpha:g}": alpha for alpha in args.alphas}
  ours = our_scores(codec, paths, qualities, outputs)
  theirs = classical.curves(paths, cache=args.cache)
  points = {name: _points(found) for name, found in (ours | theirs).items()}
  # The quality whose files are nearest to the rate asked for.
  shown = min(
    points[next(iter(outputs))], key=lambda p: abs(p["bpp"] - args.crop_bpp)
  )["quality"]
  panel, equal = equal_bytes.panel(codec, paths, shown, outputs)
  flat = _leaves(model.params)
  return {
    "model": model.fingerprint.hex(),
    "metadata": model.metadata,
    "parameters": sum(value.size for value in flat),
    "file_bytes": _file_bytes(args.model),
    "pictures": len(paths),
    "curves": points,
    "rate_difference": {
      metric: {
        name: {
          anchor: {
            "percent": rate_difference.rate_difference(
              points[anchor], points[name], metric
            ),
            "range": rate_difference.common_range(
              points[anchor], points[name], metric
            ),
          }
          for anchor in theirs
        }
        for name in ours
      }
      for metric in METRICS
    },
    "alpha_path": alpha_path(codec, paths, shown)
    if "orp" in model.params
    else None,
    "equal_bytes": equal,
    "each_picture": ours,
  }, panel


def _points(found) -> list[dict[str, Any]]:
  return [
    {"quality": quality, **scores.mean(list(pictures.values()))}
    for quality, pictures in found.items()
  ]


def _leaves(tree) -> list[np.ndarray]:
  if not isinstance(tree, dict):
    return [tree]
  return [leaf for value in tree.values() for leaf in _leaves(value)]


def _file_bytes(name: str | None) -> int:
  """Of the model's file; 0 for a work directory, which has none."""
  if name is not None and pathlib.Path(name).exists():
    path = pathlib.Path(name)
    return path.stat().st_size if path.is_file() else 0
  return (catalog.default() if name is None else catalog.find(name)).size_bytes


def main() -> None:
  """Measures, and writes what the docstring of this file says."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", required=True, type=pathlib.Path)
  models.add_argument(parser)
  parser.add_argument("--to", required=True, type=pathlib.Path, metavar="DIR")
  parser.add_argument(
    "--cache", type=pathlib.Path, metavar="FILE", help="of classical codecs"
  )
  parser.add_argument(
    "--qualities",
    type=_numbers,
    metavar="Q,Q",
    help="of our files (default: every level of the model)",
  )
  parser.add_argument("--alphas", type=_numbers, default=ALPHAS, metavar="A,A")
  parser.add_argument(
    "--crop-bpp",
    type=float,
    default=0.15,
    help="pictures at equal bytes, and the path of alpha, are of the quality"
    " whose mean rate is nearest to this (default: %(default)s)",
  )
  args = parser.parse_args()
  args.to.mkdir(parents=True, exist_ok=True)
  result, panel = measure(args)
  text = report.markdown(result)
  atomic_files.write_bytes(args.to / "compare.md", text.encode())
  content = json.dumps(report.jsonable(result), indent=1) + "\n"
  atomic_files.write_bytes(args.to / "compare.json", content.encode())
  report.draw(args.to / "curves.png", result)
  if panel is not None:
    images.write(args.to / "equal_bytes.jpg", panel)
  print(f"\n{text}\nlook at {args.to}")


def _numbers(text: str) -> list[float]:
  return [float(number) for number in text.split(",")]


if __name__ == "__main__":
  main()
