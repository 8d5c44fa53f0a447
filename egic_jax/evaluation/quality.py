"""PSNR and MS-SSIM of 8-bit images, on the host in float64.

MS-SSIM (Wang, Simoncelli, Bovik, 2003) is computed as tf.image.ssim_multiscale
does: an 11 x 11 Gaussian window of standard deviation 1.5 applied where it fits
entirely, five scales halved by 2 x 2 means (odd sides are extended by
repeating the last row or column), one value a colour channel, then their mean.
"""

import numpy as np
from scipy import ndimage

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2

# The window has to fit after four halvings, each rounded up.
MS_SSIM_MIN_SIDE = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1) + 1


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Peak signal-to-noise ratio in decibels; infinite for equal images.

  Args:
    a: (H, W, 3) uint8.
    b: (H, W, 3) uint8.

  Raises:
    ValueError: if shapes or dtypes are not as stated.
  """
  _check(a, b)
  difference = a.astype(np.int32) - b
  squared_error = np.mean(np.square(difference), dtype=np.float64)
  if squared_error == 0:
    return float("inf")
  return float(10 * np.log10(255**2 / squared_error))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
  """Multi-scale structural similarity, in [0, 1]; 1 for equal images.

  Not a number (nan) if a side is shorter than MS_SSIM_MIN_SIDE = 161 pixels,
  for which five scales do not exist; a mean over images should leave those
  out and say so.

  Args:
    a: (H, W, 3) uint8.
    b: (H, W, 3) uint8.

  Raises:
    ValueError: if shapes or dtypes are not as stated.
  """
  _check(a, b)
  if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
    return float("nan")
  a = np.moveaxis(a, -1, 0).astype(np.float64)
  b = np.moveaxis(b, -1, 0).astype(np.float64)
  product = np.ones(3)
  for scale, weight in enumerate(_WEIGHTS):
    if scale:
      a, b = _halve(a), _halve(b)
    luminance, contrast = _similarity(a, b)
    last = scale == len(_WEIGHTS) - 1
    factor = (luminance * contrast if last else contrast).mean(axis=(1, 2))
    # A negative base has no real power; tf.image clips it likewise.
    product *= np.maximum(factor, 0.0) ** weight
  return float(product.mean())


def _check(a: np.ndarray, b: np.ndarray) -> None:
  for name, image in (("a", a), ("b", b)):
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
      raise ValueError(
        f"{name} is {image.dtype} of shape {image.shape}; pass (H, W, 3) uint8"
      )
  if a.shape != b.shape:
    raise ValueError(
      f"a has shape {a.shape} and b {b.shape}; pass images of equal size"
    )


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Luminance and contrast-structure maps: two of (C, H - 10, W - 10)."""
  mean_a, mean_b = _blur(a), _blur(b)
  product = mean_a * mean_b
  squares = mean_a**2 + mean_b**2
  luminance = (2 * product + _C1) / (squares + _C1)
  covariance = _blur(a * b) - product
  variances = _blur(a * a + b * b) - squares
  return luminance, (2 * covariance + _C2) / (variances + _C2)


def _blur(x: np.ndarray) -> np.ndarray:
  """Gaussian window where it fits: (C, H, W) > (C, H - 10, W - 10)."""
  margin = _WINDOW // 2
  taps = np.exp(-(np.arange(-margin, margin + 1) ** 2) / (2 * _SIGMA**2))
  taps /= taps.sum()
  x = ndimage.correlate1d(x, taps, axis=1)[:, margin:-margin]
  return ndimage.correlate1d(x, taps, axis=2)[:, :, margin:-margin]


def _halve(x: np.ndarray) -> np.ndarray:
  """Means over 2 x 2 pixels: (C, H, W) > (C, ceil(H / 2), ceil(W / 2))."""
  height, width = x.shape[1:]
  x = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2)), mode="symmetric")
  rows = x[:, 0::2] + x[:, 1::2]
  return (rows[:, :, 0::2] + rows[:, :, 1::2]) / 4
