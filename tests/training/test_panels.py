"""Sample panels."""

import numpy as np
import pytest

from egic_jax.training import panels


def test_pictures_stand_side_by_side_under_their_caption():
  red = np.zeros((20, 30, 3), np.uint8)
  red[..., 0] = 255
  grey = np.full((20, 30, 3), 99, np.uint8)
  panel = panels.make_panel(
    [[red, grey], [grey, red]], [["first", "a"], ["second", "b"]]
  )
  assert panel.dtype == np.uint8
  height = panel.shape[0]
  top = (height + 2) // 2 - 22
  np.testing.assert_array_equal(panel[top : top + 20, :30], red)
  np.testing.assert_array_equal(panel[top : top + 20, 32:62], grey)
  np.testing.assert_array_equal(panel[-20:, :30], grey)
  caption = panel[:top]
  assert caption.min() < 128 < caption.max()


def test_each_picture_needs_a_caption():
  picture = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match="captions: got 2 for 1 pictures"):
    panels.make_panel([[picture]], [["a", "b"]])
