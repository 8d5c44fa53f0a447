"""Windows of tokens: partition, cyclic shift, masks, relative positions.

Swin transformers (Liu et al., ICCV 2021, section 3.2) attend inside square
windows which are displaced by half a window in every second block. Feature
maps whose sides are no multiple of the window are completed with empty tokens
that no other token sees, so any size runs and nothing outside the map leaks in.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import extents


def padded_size(size: int, window: int) -> int:
  """Smallest multiple of `window` that is at least `size`."""
  return -(-size // window) * window


def partition(x: jax.Array, window: int, shift: int = 0) -> jax.Array:
  """Cuts a feature map into windows, after a cyclic shift up and left.

  Args:
    x: (B, H, W, C). Completed with zeros to multiples of `window`.
    window: side of a window in tokens.
    shift: tokens by which the map is rolled before it is cut.

  Returns:
    (B * windows, window**2, C), windows in row-major order.
  """
  batch, height, width, channels = x.shape
  rows, columns = padded_size(height, window), padded_size(width, window)
  if (rows, columns) != (height, width):
    x = jnp.pad(x, ((0, 0), (0, rows - height), (0, columns - width), (0, 0)))
  if shift:
    x = jnp.roll(x, (-shift, -shift), (1, 2))
  x = x.reshape(
    batch, rows // window, window, columns // window, window, channels
  )
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window * window, channels)


def merge(
  windows: jax.Array, window: int, height: int, width: int, shift: int = 0
) -> jax.Array:
  """Inverse of `partition`: (B * windows, window**2, C) > (B, H, W, C)."""
  rows, columns = padded_size(height, window), padded_size(width, window)
  channels = windows.shape[-1]
  x = windows.reshape(
    -1, rows // window, columns // window, window, window, channels
  )
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, rows, columns, channels)
  if shift:
    x = jnp.roll(x, (shift, shift), (1, 2))
  return x[:, :height, :width]


def regions(
  height: int,
  width: int,
  window: int,
  shift: int,
  valid: extents.Extent | None = None,
) -> np.ndarray | jax.Array | None:
  """Which tokens of a window may see each other: those of the same region.

  After a cyclic shift the last windows hold tokens from opposite borders; these
  fall into up to nine regions of the map that must not mix. Tokens added to
  complete a window form a region of their own.

  Args:
    height, width: size of the feature map in tokens, before completion.
    window: side of a window in tokens.
    shift: the cyclic shift of `partition`.
    valid: the part of the map that counts, if not all of it. Its tokens see what
      they would if the map ended there.

  Returns:
    (windows, window**2) int32 region of each token, or None if there is but one.
  """
  if valid is None:
    return _regions_of_whole_map(height, width, window, shift)
  rows, columns = padded_size(height, window), padded_size(width, window)
  region = _shift_regions(rows, columns, window, shift)
  inside = extents.inside(rows, columns, valid)
  inside = jnp.roll(inside, (-shift, -shift), (0, 1))
  return _by_window(jnp.where(inside, region, -1), window)


@functools.cache
def _regions_of_whole_map(height, width, window, shift) -> np.ndarray | None:
  rows, columns = padded_size(height, window), padded_size(width, window)
  if not shift and (rows, columns) == (height, width):
    return None
  region = _shift_regions(rows, columns, window, shift)
  inside = np.zeros((rows, columns), bool)
  inside[:height, :width] = True
  region[~np.roll(inside, (-shift, -shift), (0, 1))] = -1
  return _by_window(region, window)


def _shift_regions(rows, columns, window, shift) -> np.ndarray:
  """Which border each token comes from after the shift: (rows, columns)."""
  region = np.zeros((rows, columns), np.int32)
  if shift:
    for axis, size in enumerate((rows, columns)):
      part = np.zeros(size, np.int32)
      part[size - window : size - shift] = 1
      part[size - shift :] = 2
      region += part[:, None] * 3 if axis == 0 else part[None, :]
  return region


def _by_window(region, window):
  """(rows, columns) > (windows, window**2)."""
  rows, columns = region.shape
  tokens = region.reshape(rows // window, window, columns // window, window)
  return tokens.transpose(0, 2, 1, 3).reshape(-1, window * window)


@functools.cache
def relative_position_index(window: int) -> np.ndarray:
  """Row of the bias table for each pair of tokens: (window**2, window**2)."""
  place = np.stack(np.divmod(np.arange(window * window), window), -1)
  offset = place[:, None] - place[None, :] + window - 1
  return offset[..., 0] * (2 * window - 1) + offset[..., 1]
