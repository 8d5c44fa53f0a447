"""Analysis and synthesis of pictures of any size, window by window.

Memory does not grow with the picture but for the picture itself and its
latents. A picture of up to 1024 pixels a side is one window. Larger ones take
windows of that size which overlap: each sees more than is kept of it. What
differs from the transform of the whole picture is how attention ends at a
window's border, and fades with the distance to it.
"""

from collections.abc import Callable, Iterator

import numpy as np

from egic_jax.bitstream import buckets, tiles
from egic_jax.models import presets

# In elements of z, 64 pixels. Attention reaches across windows of 128 pixels at
# the coarsest resolution, but little of it arrives: benchmarks/large_pictures.py
# measures what is left at the seams.
ANALYSIS_OVERLAP = 1
SYNTHESIS_OVERLAP = 2

# (uint8 images, valid) > y, in bucket sizes.
Analysis = Callable[[np.ndarray, tuple], np.ndarray]
# (y_hat, valid) > (B, H, W, 3) uint8, in bucket sizes.
Synthesis = Callable[[np.ndarray, tuple], np.ndarray]


def analysis_windows(z_size: tuple[int, int]) -> list[tiles.Window]:
  """The windows that `analysis` takes."""
  return tiles.windows(*z_size, ANALYSIS_OVERLAP)


def synthesis_windows(z_size: tuple[int, int]) -> list[tiles.Window]:
  """The windows that `synthesis` takes."""
  return tiles.windows(*z_size, SYNTHESIS_OVERLAP)


def analysis(
  config: presets.CodecConfig,
  analyse: Analysis,
  images: np.ndarray,
  step: Callable[[], None] = lambda: None,
) -> np.ndarray:
  """y of pictures.

  Args:
    config: size of the model.
    analyse: the compiled transform, but for pictures and extent.
    images: (B, H, W, 3) uint8. Reflected at the bottom and on the right up to
      multiples of 64 pixels.
    step: called after each window.

  Returns:
    (B, h, w, latent channels) float32, h = 4 ceil(H / 64), w likewise.
  """
  rows, columns = (
    _reflected(side, config.hyper_stride) for side in images.shape[1:3]
  )
  z_size = tuple(len(x) // config.hyper_stride for x in (rows, columns))
  scale = config.hyper_stride // config.latent_stride
  y = np.empty(
    (len(images), scale * z_size[0], scale * z_size[1], config.latent_channels),
    np.float32,
  )
  for window in analysis_windows(z_size):
    inside = window.outer.slices(config.hyper_stride)
    pixels = _along(images, rows[inside[0]], 1)
    pixels = _along(pixels, columns[inside[1]], 2)
    pixels, valid = buckets.place(pixels, config.hyper_stride)
    result = np.asarray(analyse(pixels, valid))
    to, kept = _cores(window, scale)
    y[:, *to] = result[:, *kept]
    step()
  return y


def synthesis(
  config: presets.CodecConfig,
  synthesize: Synthesis,
  y_hat: np.ndarray,
  size: tuple[int, int],
  step: Callable[[], None] = lambda: None,
) -> np.ndarray:
  """Pictures of y_hat.

  Args:
    config: size of the model.
    synthesize: the compiled transform, but for its latents and extent.
    y_hat: (B, h, w, latent channels) float32, as `analysis` returns.
    size: height and width of the pictures in pixels; what reflection has added
      to them is left out.
    step: called after each window.

  Returns:
    (B, H, W, 3) uint8.
  """
  scale = config.hyper_stride // config.latent_stride
  z_size = (y_hat.shape[1] // scale, y_hat.shape[2] // scale)
  images = np.empty((len(y_hat), *size, 3), np.uint8)
  for window in synthesis_windows(z_size):
    latents, valid = buckets.place(y_hat[:, *window.outer.slices(scale)], scale)
    result = np.asarray(synthesize(latents, valid))
    to, kept = _cores(window, config.hyper_stride)
    part = images[:, *to]
    height, width = part.shape[1:3]
    part[...] = result[:, *kept][:, :height, :width]
    step()
  return images


def _cores(window: tiles.Window, scale: int) -> Iterator[tuple[slice, slice]]:
  """Where a window's core lies in the picture, and in the window."""
  core = window.core
  yield core.slices(scale)
  yield tiles.Region(
    core.top - window.outer.top, core.left - window.outer.left, *core.size
  ).slices(scale)


def _along(images: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
  """Those rows or columns; not copied if they lie side by side."""
  start, count = places[0], len(places)
  if np.array_equal(places, np.arange(start, start + count)):
    return images[(slice(None),) * axis + (slice(start, start + count),)]
  return np.take(images, places, axis)


def _reflected(side: int, stride: int) -> np.ndarray:
  """Which row of a picture each row of the padded one is."""
  # Reflected over and over where the padding is longer than the picture.
  return np.pad(np.arange(side), (0, -side % stride), "reflect")
