"""How a picture is cut: into tiles that are coded, and windows for transforms.

Regions are in elements of z, 64 pixels each, of the picture with its sides
rounded up to multiples of 64.

The tiles are the file format's: each is entropy-coded by itself, so that memory
is bounded and a part of a picture can be had from a part of its file. The
windows are not: analysis sees the pixels around a window and synthesis the
latents, and what windows are taken shows in no file.
"""

import dataclasses
import math
from collections.abc import Iterator

# 256 pixels: attention windows of the hyper transforms begin at its multiples.
CELL = 4
# 1024 pixels, the largest side of a tile.
MAX_CELLS = 4

LONGEST = CELL * MAX_CELLS
# Along a side, in every model, and thus in the format.
_Y_PIXELS = 16
_Y_PER_Z = 4
# Of windows: 128 pixels.
_STEP = 2


@dataclasses.dataclass(frozen=True)
class Region:
  """A rectangle, in elements of z.

  Attributes:
    top, left: of its first element.
    height, width: its extent, at least 1.
  """

  top: int
  left: int
  height: int
  width: int

  @property
  def size(self) -> tuple[int, int]:
    """(height, width)."""
    return self.height, self.width

  def slices(self, scale: int = 1) -> tuple[slice, slice]:
    """Rows and columns in a map of `scale` elements per element of z."""
    return (
      slice(scale * self.top, scale * (self.top + self.height)),
      slice(scale * self.left, scale * (self.left + self.width)),
    )

  def coded(self, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of its y that a picture reaches; the rest is padding.

    Args:
      size: height and width of the picture, in pixels.
    """
    rows = -(-size[0] // _Y_PIXELS) - _Y_PER_Z * self.top
    columns = -(-size[1] // _Y_PIXELS) - _Y_PER_Z * self.left
    return min(rows, _Y_PER_Z * self.height), min(
      columns, _Y_PER_Z * self.width
    )


def count(z_height: int, z_width: int) -> int:
  """Number of tiles; cheap however large the picture is said to be."""
  return _parts(z_height) * _parts(z_width)


def tiles(z_height: int, z_width: int) -> list[Region]:
  """The tiles of a picture, row by row.

  Of each side: its elements form cells of 4, the last of which may be smaller.
  m cells make n = ceil(m / 4) tiles, and tile k consists of the cells from
  floor(k m / n) up to, not including, floor((k + 1) m / n).
  """
  return [
    Region(top, left, height, width)
    for top, height in _cut(z_height)
    for left, width in _cut(z_width)
  ]


@dataclasses.dataclass(frozen=True)
class Window:
  """What a transform is given, and the part of its result that is kept.

  Attributes:
    outer: at most 1024 pixels a side; begins at a multiple of 128 pixels, where
      attention windows begin at every resolution of the image transforms.
    core: cores are disjoint and make up the picture.
  """

  outer: Region
  core: Region


def windows(z_height: int, z_width: int, overlap: int) -> list[Window]:
  """The windows of a picture, row by row; one if its sides are short enough.

  Args:
    z_height, z_width: of the picture, in elements of z.
    overlap: how far a window reaches beyond its core, at least, unless the
      picture ends there; in elements of z, less than 8.
  """
  result = []
  for top, bottom, first_row, last_row in _spread(z_height, overlap):
    for left, right, first, last in _spread(z_width, overlap):
      outer = Region(top, left, bottom - top, right - left)
      core = Region(first_row, first, last_row - first_row, last - first)
      result.append(Window(outer, core))
  return result


def _spread(size: int, overlap: int) -> list[tuple[int, int, int, int]]:
  """Start and stop of windows along a side, and of their cores."""
  # In steps of 128 pixels, so that windows begin only there.
  steps = -(-max(size - LONGEST, 0) // _STEP)
  count = 1 + -(-steps // (LONGEST // _STEP - overlap))
  starts = [k * steps // max(count - 1, 1) * _STEP for k in range(count)]
  stops = [min(start + LONGEST, size) for start in starts]
  # A seam lies in the middle of what its two windows share.
  seams = [
    (start + stop) // 2
    for start, stop in zip(starts[1:], stops[:-1], strict=True)
  ]
  return list(zip(starts, stops, [0, *seams], [*seams, size], strict=True))


def _parts(size: int) -> int:
  return -(-size // LONGEST)


def _cut(size: int) -> Iterator[tuple[int, int]]:
  """Start and length of the tiles along a side."""
  parts, cells = _parts(size), math.ceil(size / CELL)
  for k in range(parts):
    start = k * cells // parts * CELL
    stop = min((k + 1) * cells // parts * CELL, size)
    yield start, stop - start
