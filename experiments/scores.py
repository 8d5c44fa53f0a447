"""What is measured of one reconstruction, for all codecs alike."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from egic_jax.evaluation import quality

# Of the blur whose remainder counts as fine detail, in pixels.
_DETAIL_SIGMA = 1.0


def score(
  original: np.ndarray, decoded: np.ndarray, num_bytes: int
) -> dict[str, float]:
  """Rate, fidelity and sharpness of a picture, (H, W, 3) uint8 twice.

  Args:
    original: before coding.
    decoded: after it.
    num_bytes: of the whole file.

  Returns:
    bytes; bpp; psnr in dB; ms_ssim in [0, 1]; gradient, the gradient energy
    over the original's; detail_db, ten times the logarithm of the same ratio of
    high-pass energies.
  """
  height, width = original.shape[:2]
  detail = detail_energy(decoded) / max(detail_energy(original), 1e-12)
  return {
    "bytes": num_bytes,
    "bpp": 8 * num_bytes / (height * width),
    "psnr": quality.psnr(original, decoded),
    "ms_ssim": quality.ms_ssim(original, decoded),
    "gradient": gradient_energy(decoded)
    / max(gradient_energy(original), 1e-12),
    "detail_db": 10 * math.log10(max(detail, 1e-12)),
  }


def mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Means over pictures; those too small for MS-SSIM stay out of its mean.

  Adds ms_ssim_db, -10 log10(1 - mean MS-SSIM), which spreads what lies near 1.
  """
  names = scores[0].keys() - {"ms_ssim_db"}
  means = {name: float(np.mean([s[name] for s in scores])) for name in names}
  known = [s["ms_ssim"] for s in scores if not math.isnan(s["ms_ssim"])]
  means["ms_ssim"] = float(np.mean(known)) if known else math.nan
  means["ms_ssim_db"] = -10 * math.log10(max(1 - means["ms_ssim"], 1e-9))
  return means


def gradient_energy(picture: np.ndarray) -> float:
  """Mean squared difference of neighbouring pixels' luma; of (H, W, 3) uint8.

  The sum over both directions; its ratio to the original's is 1 for a picture
  with as much fine detail, right or wrong, and below 1 for a blurred one.
  """
  luma = _luma(picture)
  return float(sum(np.mean(np.diff(luma, axis=i) ** 2) for i in (0, 1)))


def detail_energy(picture: np.ndarray) -> float:
  """Mean square of what a blur takes out of luma; of (H, W, 3) uint8."""
  luma = _luma(picture)
  return float(
    np.mean((luma - ndimage.gaussian_filter(luma, _DETAIL_SIGMA)) ** 2)
  )


def _luma(picture):
  return picture.astype(np.float64) @ (0.299, 0.587, 0.114)
