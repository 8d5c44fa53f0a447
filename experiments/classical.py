"""JPEG, WebP, AVIF and HEVC on a folder of pictures: real bytes, same metrics.

    python experiments/classical.py --images KODAK --cache classical.json

AVIF is that of Pillow (libavif, speed 4), HEVC that of pillow-heif (libheif with
x265, intra, its preset "slow"): pip install 'egic_jax[comparison]'. Colour is
4:2:0, as each does unless told otherwise. What a machine lacks is left out.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import importlib
import io
import json
import multiprocessing
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scores
from PIL import Image, features

from egic_jax import atomic_files, images
from egic_jax.evaluation import folder


@dataclasses.dataclass(frozen=True)
class Classical:
  """A codec of Pillow.

  Attributes:
    name: as in tables.
    format: Pillow's name of it.
    options: of saving, beside the quality.
    qualities: those of the curve.
    lowest, highest: the range of qualities.
    plugin: the package that adds the format to Pillow, if one does.
    steps: of quality in a unit, for `largest_within`.
  """

  name: str
  format: str
  options: Mapping[str, Any]
  qualities: tuple[int, ...]
  lowest: int = 0
  highest: int = 100
  plugin: str = ""
  steps: int = 1

  def encode(self, picture: np.ndarray, quality: float) -> bytes:
    """(H, W, 3) uint8 to a file's content."""
    self._plug_in()
    stream = io.BytesIO()
    Image.fromarray(picture).save(
      stream, self.format, quality=quality, **self.options
    )
    return stream.getvalue()

  def decode(self, data: bytes) -> np.ndarray:
    """A file's content to (H, W, 3) uint8."""
    self._plug_in()
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

  def missing(self) -> str:
    """What this machine lacks for it; nothing if it works."""
    if self.plugin:
      try:
        self._plug_in()
      except ImportError:
        return f"{self.name} is left out: pip install {self.plugin}"
      return ""
    # JPEG is called by its library, the others by their names.
    name = {"JPEG": "jpg"}.get(self.format, self.format.lower())
    return "" if features.check(name) else f"{self.name} is left out: no {name}"

  def version(self) -> str:
    """Of the library that encodes."""
    if self.plugin:
      return importlib.import_module(self.plugin).libheif_info()["HEIF"]
    if self.format == "JPEG":
      return features.version("libjpeg_turbo") or features.version("jpg") or ""
    return features.version(self.format.lower()) or ""

  def _plug_in(self) -> None:
    if self.plugin:
      importlib.import_module(self.plugin).register_heif_opener()

  def largest_within(
    self, picture: np.ndarray, max_bytes: int
  ) -> tuple[bytes, bool]:
    """The file of the highest quality that is not larger than this.

    Returns:
      (content, True), or (what the lowest quality takes, False) where even that
      is larger.
    """
    low, high = self.lowest * self.steps, self.highest * self.steps
    best = self.encode(picture, self.lowest)
    if len(best) > max_bytes:
      return best, False
    # Sizes grow with quality but for a byte here and there.
    while low < high:
      middle = (low + high + 1) // 2
      # Most encoders take whole numbers only.
      quality = middle if self.steps == 1 else middle / self.steps
      data = self.encode(picture, quality)
      if len(data) <= max_bytes:
        low, best = middle, data
      else:
        high = middle - 1
    return best, True


# JPEG as most programs write it, and with optimised tables and scans, whose
# pictures are the same.
_JPEG = (2, 5, 8, 12, 17, 25, 35, 50, 65)
CODECS = (
  Classical("JPEG", "JPEG", {}, _JPEG, 1, 95),
  Classical(
    "JPEG (optimised)",
    "JPEG",
    {"optimize": True, "progressive": True},
    _JPEG,
    1,
    95,
  ),
  # Between 0 and 1 its files grow by half.
  Classical(
    "WebP",
    "WEBP",
    {"method": 6},
    (0, 1, 4, 10, 20, 32, 45, 60, 75),
    steps=20,
  ),
  Classical("AVIF", "AVIF", {"speed": 4}, (2, 6, 12, 20, 30, 38, 46, 54, 62)),
  Classical(
    "HEVC", "HEIF", {}, (1, 4, 8, 12, 20, 25, 30, 36, 42), plugin="pillow_heif"
  ),
)


def available() -> list[Classical]:
  """The codecs that work here; prints a line for each that does not."""
  found = []
  for codec in CODECS:
    if problem := codec.missing():
      print(problem, flush=True)
    else:
      found.append(codec)
  return found


def curves(
  paths: Sequence[pathlib.Path],
  *,
  cache: pathlib.Path | None = None,
  processes: int = 2,
) -> dict[str, dict[int, dict[str, dict[str, float]]]]:
  """Scores of every codec, quality and picture.

  Args:
    paths: pictures.
    cache: a JSON file to take them from, and to add new ones to. Pictures count
      by content, codecs with their versions.
    processes: how many to measure with.

  Returns:
    codec > quality > file name > what `scores.score` returns.
  """
  known = {}
  if cache is not None and cache.exists():
    known = json.loads(cache.read_text())
  digests = {path: _digest(path) for path in paths}
  codecs = available()
  jobs = {
    _key(codec, quality, digests[path]): (codec, quality, path)
    for codec in codecs
    for path in paths
    for quality in codec.qualities
  }
  todo = {key: job for key, job in jobs.items() if key not in known}
  if todo:
    print(f"{len(todo)} files of classical codecs to measure", flush=True)
    # Whoever calls this may have threads, which a fork would not survive.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
      known.update(zip(todo, pool.map(_measure, todo.values()), strict=True))
    if cache is not None:
      text = json.dumps(known, indent=0, sort_keys=True) + "\n"
      atomic_files.write_bytes(cache, text.encode())
  found: dict[str, dict[int, dict]] = {}
  for key, (codec, quality, path) in jobs.items():
    by_quality = found.setdefault(codec.name, {})
    by_quality.setdefault(quality, {})[path.name] = known[key]
  return found


def _measure(job) -> dict[str, float]:
  codec, quality, path = job
  picture = images.read(path)
  data = codec.encode(picture, quality)
  return scores.score(picture, codec.decode(data), len(data))


def _key(codec: Classical, quality: int, digest: str) -> str:
  options = json.dumps(dict(codec.options), sort_keys=True)
  return f"{codec.name} {codec.version()} {options} {quality} {digest}"


def _digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def main() -> None:
  """Prints one line a codec and quality."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", required=True, type=pathlib.Path)
  parser.add_argument("--cache", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args()
  found = curves(folder.find_pictures(args.images), cache=args.cache)
  print(f"{'codec':<16} {'quality':>7} {'bpp':>8} {'PSNR':>7} {'MS-SSIM':>8}")
  for codec, by_quality in found.items():
    for quality, pictures in by_quality.items():
      mean = scores.mean(list(pictures.values()))
      print(
        f"{codec:<16} {quality:>7} {mean['bpp']:>8.4f} {mean['psnr']:>7.2f}"
        f" {mean['ms_ssim']:>8.4f}"
      )


if __name__ == "__main__":
  main()
