"""The few sizes that programs are compiled for.

A map is put in the upper left corner of the smallest bucket that holds it, and
the programs are told its extent; what lies outside is masked. A folder of
photographs of any sizes thus needs the programs of a handful of buckets.
"""

import numpy as np

# In elements of z, 64 pixels each: 128, 256, 384, 512, 768 and 1024 pixels.
# On the photograph sets of the README's evaluation they cost 1.0 to 1.2 times
# the arithmetic of exact sizes, and one to five buckets a set.
SIDES = (2, 4, 6, 8, 12, 16)


def latent_grid(z_height: int, z_width: int) -> tuple[int, int]:
  """The bucket of a tile, in elements of z (64 pixels, 4 elements of y).

  Encoder and decoder must run the same bucket: results at valid elements agree
  between buckets to float32 rounding only.

  Args:
    z_height, z_width: the tile's extent, in [1, 16].

  Raises:
    ValueError: if a side is outside this range.
  """
  return _side("z_height", z_height), _side("z_width", z_width)


def place(
  maps: np.ndarray, scale: int
) -> tuple[np.ndarray, tuple[np.int32, np.int32]]:
  """Puts maps in the corner of their bucket.

  Args:
    maps: (B, scale * z_height, scale * z_width, C).
    scale: elements of a map per element of z, along a side.

  Returns:
    The map with zeros around, and `valid` as `programs` wants it.
  """
  size = tuple(side // scale for side in maps.shape[1:3])
  grid = latent_grid(*size)
  if grid != size:
    after = (scale * (g - s) for g, s in zip(grid, size, strict=True))
    maps = np.pad(maps, ((0, 0), *((0, n) for n in after), (0, 0)))
  return maps, (np.int32(size[0]), np.int32(size[1]))


def _side(name: str, size: int) -> int:
  if not 1 <= size <= SIDES[-1]:
    raise ValueError(
      f"{name} is {size}; a tile has 1 to {SIDES[-1]} elements of z a side:"
      " split the picture into tiles"
    )
  return next(side for side in SIDES if side >= size)
