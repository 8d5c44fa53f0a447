"""A model's bit rates and quality on a folder of pictures, with real bytes."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from egic_jax import images
from egic_jax.bitstream import codec as codec_lib
from egic_jax.evaluation import quality as metrics

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Result:
  """One picture, or the mean of several.

  Attributes:
    name: file name, or "mean".
    width, height: pixels.
    bytes: size of the whole .egic file.
    bpp: bits of the whole file per pixel of the original.
    estimated_bpp: by the model's densities, without header and range coder.
    psnr: dB on 8-bit RGB.
    ms_ssim: in [0, 1]; nan where a side is shorter than 161 pixels.
    encode_seconds, decode_seconds: networks and range coder, without reading
      and writing files. The first picture of a bucket of sizes includes
      compilation.
  """

  name: str
  width: int
  height: int
  bytes: float
  bpp: float
  estimated_bpp: float
  psnr: float
  ms_ssim: float
  encode_seconds: float
  decode_seconds: float


def find_pictures(folder: str | pathlib.Path) -> list[pathlib.Path]:
  """Pictures directly in a folder, by name; ValueError if there are none."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise ValueError(f"--images {folder}: there is no such folder")
  found = sorted(
    path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES
  )
  if not found:
    raise ValueError(f"--images {folder}: no pictures in it")
  return found


def evaluate(
  codec: codec_lib.ImageCodec,
  paths: Iterable[pathlib.Path],
  *,
  alpha: float = 1.0,
  quality: float | None = None,
  visit: Callable[[pathlib.Path, np.ndarray, np.ndarray], None] | None = None,
) -> Iterator[Result]:
  """Compresses and decompresses pictures, one Result each.

  Args:
    codec: the model.
    paths: pictures.
    alpha: of decoding, see `ImageCodec.decode`.
    quality: of encoding, see `ImageCodec.encode`.
    visit: called with path, original and reconstruction, both (H, W, 3) uint8.

  Raises:
    ValueError: a picture cannot be read, or the model has no such quality.
  """
  for path in paths:
    image = images.read(path)
    start = time.perf_counter()
    data = codec.encode(image, quality)
    encoded = time.perf_counter()
    decoded = codec.decode(data, alpha)
    end = time.perf_counter()
    estimate = codec.estimate_bits(image, quality)
    height, width = image.shape[:2]
    if visit is not None:
      visit(path, image, decoded)
    yield Result(
      name=path.name,
      width=width,
      height=height,
      bytes=len(data),
      bpp=8 * len(data) / (height * width),
      estimated_bpp=estimate["bits"] / (height * width),
      psnr=metrics.psnr(image, decoded),
      ms_ssim=metrics.ms_ssim(image, decoded),
      encode_seconds=encoded - start,
      decode_seconds=end - encoded,
    )


def mean(results: list[Result]) -> Result:
  """Every column's mean; pictures too small for MS-SSIM stay out of its mean.

  PSNR is averaged over pictures in dB, as published results are.
  """
  values = {}
  for field in dataclasses.fields(Result):
    if field.name == "name":
      continue
    column = [getattr(result, field.name) for result in results]
    known = [value for value in column if not math.isnan(value)]
    values[field.name] = sum(known) / len(known) if known else math.nan
  return Result(name="mean", **values)
