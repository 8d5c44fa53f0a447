"""Geometry is proved with a picture whose colours are its coordinates."""

import numpy as np
import pytest

from egic_jax.data import augment


def _coordinates(height, width):
  """Red is the row, green the column, and the label repeats them."""
  rows, columns = np.mgrid[:height, :width]
  image = np.stack([rows, columns, rows * 0 + 9], -1).astype(np.uint8)
  label = (1 + (rows // 8 + columns // 8 * 13) % 200).astype(np.uint8)
  return {"image": image, "label": label}


def _label_of(image):
  rows, columns = image[..., 0].astype(int), image[..., 1].astype(int)
  return 1 + (rows // 8 + columns // 8 * 13) % 200


def test_crop_and_flip_move_picture_and_label_alike():
  element = _coordinates(90, 120)
  crop = augment.RandomCrop(crop_size=32)
  seen, flips = set(), 0
  for seed in range(50):
    result = crop.random_map(element, np.random.default_rng(seed))
    image, label = result["image"], result["label"]
    assert image.shape == (32, 32, 3) and label.shape == (32, 32)
    assert image.dtype == label.dtype == np.uint8
    np.testing.assert_array_equal(label, _label_of(image))
    down, right = np.diff(image[:, 0, 0]), np.diff(image[0, :, 1].astype(int))
    assert (down == 1).all() and len(set(right.tolist())) == 1
    flips += right[0] == -1
    seen.add((image[0, 0, 0], image[0, :, 1].min()))
  assert len(seen) > 40
  assert 10 < flips < 40


def test_crops_reach_every_edge():
  element = _coordinates(34, 35)
  crop = augment.RandomCrop(crop_size=32, flip=False)
  corners = {
    tuple(crop.random_map(element, np.random.default_rng(s))["image"][0, 0, :2])
    for s in range(200)
  }
  assert corners == {(y, x) for y in range(3) for x in range(4)}


@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 1.5, 2.0])
def test_scaling_moves_picture_and_label_alike(scale):
  height, width = 100, 120
  rows, columns = np.mgrid[:height, :width]
  # A smooth ramp as picture, the same ramp as label: equal up to rounding.
  image = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
  crop = augment.RandomCrop(
    crop_size=40, scale_range=(scale, scale), flip=False
  )
  for seed in range(5):
    for channel, label in enumerate((rows, columns)):
      element = {"image": image, "label": label.astype(np.uint8)}
      result = crop.random_map(element, np.random.default_rng(seed))
      error = result["image"][..., channel].astype(int) - result["label"]
      # Bicubic bends the ramp by a pixel at the edges of the picture.
      assert np.abs(error).max() <= 1 + (scale < 1)
      assert abs(error.mean()) <= 0.51
      axis = result["label"][:, 0] if channel == 0 else result["label"][0]
      span = int(axis[-1]) - int(axis[0])
      assert abs(span - 39 / scale) <= 1


def test_scaled_window_equals_the_window_of_the_scaled_picture():
  element = _coordinates(100, 120)
  whole = augment.cut(
    element, top=0, left=0, crop_size=150, scaled_shape=(150, 180)
  )
  part = augment.cut(
    element, top=60, left=50, crop_size=40, scaled_shape=(150, 180)
  )
  for name in ("image", "label"):
    difference = np.abs(
      whole[name][60:100, 50:90].astype(int) - part[name].astype(int)
    )
    # Pillow rounds its weights; the label must agree exactly.
    assert difference.max() <= (1 if name == "image" else 0)


def test_scaling_makes_up_no_classes():
  element = _coordinates(64, 64)
  element["label"] = np.where(element["label"] % 2, 10, 200).astype(np.uint8)
  crop = augment.RandomCrop(crop_size=48, scale_range=(0.8, 1.7))
  for seed in range(5):
    label = crop.random_map(element, np.random.default_rng(seed))["label"]
    assert set(np.unique(label)) == {10, 200}


def test_scale_steps():
  crop = augment.RandomCrop(crop_size=8, scale_range=(0.5, 1.5), scale_step=0.1)
  scales = {
    round(crop._scale(np.random.default_rng(seed)), 6) for seed in range(300)
  }
  assert scales == {round(0.5 + 0.1 * step, 6) for step in range(11)}


@pytest.mark.parametrize("padding", augment.PADDINGS)
@pytest.mark.parametrize("size", [(20, 100), (100, 20), (5, 7), (1, 1)])
def test_small_pictures_are_padded_with_void(size, padding):
  element = _coordinates(*size)
  crop = augment.RandomCrop(crop_size=32, flip=False, padding=padding)
  for seed in range(5):
    result = crop.random_map(element, np.random.default_rng(seed))
    assert result["image"].shape == (32, 32, 3)
    inside = result["label"] > 0
    assert inside.sum() == min(size[0], 32) * min(size[1], 32)
    np.testing.assert_array_equal(
      result["label"][inside], _label_of(result["image"])[inside]
    )
    if padding == "mean":
      assert (result["image"][~inside] == (124, 116, 104)).all()
    else:
      # Mirrored, not constant: the same colours as inside.
      assert result["image"][..., 0].max() < size[0]
      assert (result["image"][..., 2] == 9).all()


def test_void_padding_covers_scaled_pictures():
  crop = augment.RandomCrop(crop_size=64, scale_range=(0.5, 0.5))
  result = crop.random_map(_coordinates(60, 200), np.random.default_rng(0))
  assert (result["label"] > 0).sum() == 30 * 64


def test_centre_crop_is_the_middle():
  result = augment.centre_crop(_coordinates(101, 80), 31)
  assert result["image"][0, 0, :2].tolist() == [35, 24]
  padded = augment.centre_crop(_coordinates(10, 80), 20)["label"]
  assert (padded[:5] == 0).all() and (padded[15:] == 0).all()
  assert (padded[5:15] > 0).all()


def test_input_is_not_written_to_nor_aliased():
  element = _coordinates(40, 40)
  copy = {name: array.copy() for name, array in element.items()}
  result = augment.centre_crop(element, 40)
  result["image"][:] = 0
  np.testing.assert_array_equal(element["image"], copy["image"])


@pytest.mark.parametrize(
  "arguments",
  [
    {"crop_size": 0},
    {"crop_size": 8, "padding": "zero"},
    {"crop_size": 8, "scale_range": (1.5, 0.5)},
    {"crop_size": 8, "scale_range": (0.0, 1.0)},
    {"crop_size": 8, "scale_step": -0.1},
  ],
)
def test_bad_arguments_are_named(arguments):
  with pytest.raises(ValueError, match=list(arguments)[-1]):
    augment.RandomCrop(**arguments)
