"""Windows against element-by-element definitions."""

import numpy as np
import pytest

from egic_jax.ops import space_to_depth, windows

SIZES = [(8, 8, 4, 0), (8, 12, 4, 2), (5, 9, 4, 2), (3, 3, 4, 2), (6, 6, 4, 0)]


@pytest.mark.parametrize("height,width,window,shift", SIZES)
def test_merge_undoes_partition(height, width, window, shift):
  x = np.random.default_rng(0).standard_normal((2, height, width, 3))
  cut = windows.partition(x.astype(np.float32), window, shift)
  back = windows.merge(cut, window, height, width, shift)
  np.testing.assert_array_equal(back, x.astype(np.float32))


@pytest.mark.parametrize("height,width,window,shift", SIZES)
def test_regions_by_brute_force(height, width, window, shift):
  """Two tokens see each other if they are neighbours in the unrolled map.

  Inside one window of the rolled map that holds exactly when their distance in
  the map equals their distance in the window, and both are inside it.
  """
  rows = windows.padded_size(height, window)
  columns = windows.padded_size(width, window)
  place = np.full((1, rows, columns, 2), -1.0, np.float32)
  place[0, :height, :width] = np.stack(np.mgrid[:height, :width], axis=-1)
  tokens = np.asarray(windows.partition(place, window, shift))
  regions = windows.regions(height, width, window, shift)
  if regions is None:
    regions = np.zeros(tokens.shape[:2])
  visible = regions[:, :, None] == regions[:, None, :]
  local = np.stack(np.divmod(np.arange(window**2), window), -1)
  for block, seen in zip(tokens, visible, strict=True):
    for a in range(window**2):
      if block[a, 0] < 0:
        continue  # Nobody looks at what an added token sees.
      for b in range(window**2):
        neighbours = block[b, 0] >= 0 and np.array_equal(
          block[b] - block[a], local[b] - local[a]
        )
        assert seen[a, b] == neighbours


def test_there_are_no_regions_when_all_is_visible():
  assert windows.regions(16, 8, 8, 0) is None


def test_relative_positions_by_definition():
  window = 3
  index = windows.relative_position_index(window)
  for a in range(9):
    for b in range(9):
      row, column = a // 3 - b // 3 + 2, a % 3 - b % 3 + 2
      assert index[a, b] == row * 5 + column


def test_phases_of_merging_and_splitting():
  x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
  merged = np.asarray(space_to_depth.merge_phases(x))
  # Row, column of the phases: (0,0) (1,0) (0,1) (1,1).
  np.testing.assert_array_equal(merged[0, 0, 0], [0, 4, 1, 5])
  np.testing.assert_array_equal(merged[0, 1, 1], [10, 14, 11, 15])
  split = np.asarray(
    space_to_depth.depth_to_space(
      np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8)
    )
  )
  np.testing.assert_array_equal(split[0, :, :, 0], [[0, 2], [4, 6]])
  np.testing.assert_array_equal(split[0, :, :, 1], [[1, 3], [5, 7]])
