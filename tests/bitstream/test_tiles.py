"""How pictures are cut, by definition and by properties."""

import numpy as np
import pytest

from egic_jax.bitstream import buckets, tiles

_SIDES = [*range(1, 70), 97, 128, 129, 511, 1000]


def test_layout_of_some_sides():
  # Part of the file format.
  lengths = {n: [length for _, length in tiles._cut(n)] for n in _SIDES}
  assert lengths[1] == [1] and lengths[16] == [16]
  assert lengths[17] == [8, 9] and lengths[20] == [8, 12]
  assert lengths[24] == [12, 12] and lengths[32] == [16, 16]
  assert lengths[33] == [12, 12, 9] and lengths[63] == [16, 16, 16, 15]
  assert lengths[128] == [16] * 8
  assert lengths[129] == [12, 16, 16, 12, 16, 16, 12, 16, 13]


def test_tiles_are_aligned_and_no_larger_than_allowed():
  for side in _SIDES:
    cut = list(tiles._cut(side))
    assert len(cut) == -(-side // 16)
    position = 0
    for start, length in cut:
      assert start == position and start % 4 == 0 and 1 <= length <= 16
      position += length
    assert position == side


def _cover(regions, shape):
  painted = np.zeros(shape, int)
  for region in regions:
    painted[region.slices()] += 1
  return painted


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 40), (33, 5)])
def test_tiles_and_cores_cover_the_picture_once(size):
  regions = tiles.tiles(*size)
  assert len(regions) == tiles.count(*size)
  assert (_cover(regions, size) == 1).all()
  assert regions == sorted(regions, key=lambda r: (r.top, r.left))
  for overlap in (1, 2):
    cores = [window.core for window in tiles.windows(*size, overlap)]
    assert (_cover(cores, size) == 1).all()


@pytest.mark.parametrize("overlap", [1, 2])
def test_windows_reach_beyond_their_cores(overlap):
  for side in _SIDES:
    for window in tiles.windows(side, 1, overlap):
      outer, core = window.outer, window.core
      assert outer.top % 2 == 0 and outer.height <= 16
      assert outer.top == 0 or core.top - outer.top >= overlap
      end, core_end = outer.top + outer.height, core.top + core.height
      assert end == side or end - core_end >= overlap
      assert core.height > 0 and end <= side


def test_few_buckets_hold_every_tile():
  assert buckets.latent_grid(1, 16) == (2, 16)
  # Kodak's sizes exactly.
  assert buckets.latent_grid(8, 12) == (8, 12)
  for side in range(1, 17):
    grid, _ = buckets.latent_grid(side, 1)
    assert side <= grid <= max(2 * side, 2)
  for wrong in (0, 17):
    with pytest.raises(ValueError, match=f"z_width is {wrong}"):
      buckets.latent_grid(1, wrong)


def test_place():
  maps = np.ones((2, 12, 4, 3), np.float32)
  placed, valid = buckets.place(maps, 4)
  assert placed.shape == (2, 16, 8, 3) and valid == (3, 1)
  assert placed[:, :12, :4].all() and placed.sum() == maps.sum()
  assert buckets.place(placed, 4)[0] is placed


def test_coded_elements_are_those_that_see_the_picture():
  # 1030 x 300 pixels: y has 64.4 x 18.75 elements of it.
  upper, lower = tiles.tiles(17, 5)
  assert upper.coded((1030, 300)) == (4 * upper.height, 19)
  assert lower.coded((1030, 300)) == (65 - 4 * upper.height, 19)
  (whole,) = tiles.tiles(1, 1)
  assert whole.coded((1, 64)) == (1, 4)
