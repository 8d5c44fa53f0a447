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


@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_caption_is_never_wider_than_its_picture(side):
  picture = np.full((side, side, 3), 99, np.uint8)
  numbers = {"D(output)/fake": np.ones(1), "D(output)/psnr": np.ones(1)}
  text = panels._caption("D(output)", numbers, 0)
  panel = panels.make_panel([[picture, picture]], [[text, "x"]])
  caption = panel[: panel.shape[0] - side, :side]
  # Black ink, and none of it at the edges where something would be cut off.
  assert caption.min() < 128
  assert caption[:, -1].min() == caption[-1].min() == 255
  np.testing.assert_array_equal(panel[-side:, :side], picture)
  lines = panels._wrap(text, side - 4, panels._font_for([text], side - 4))
  assert "".join(lines).replace(" ", "") == "D(output)100%fake1.0dB"
  expected = ["D(output)", "100% fake", "1.0 dB"]
  if side == 64:
    assert lines == expected
  if side == 128:
    assert lines == [" ".join(expected)]


def test_a_smaller_font_before_a_word_is_cut():
  font = panels._font_for(["segmentation 97%", "x"], 60)
  assert panels._wrap("segmentation 97%", 60, font) == ["segmentation", "97%"]
  assert panels._font_for(["segmentation"], 100).size > font.size


def test_each_picture_needs_a_caption():
  picture = np.zeros((4, 4, 3), np.uint8)
  with pytest.raises(ValueError, match="captions: got 2 for 1 pictures"):
    panels.make_panel([[picture]], [["a", "b"]])
