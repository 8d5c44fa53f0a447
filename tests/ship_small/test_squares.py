"""Squares cut on the device, against loops in NumPy."""

import math

import jax
import numpy as np
import plan
import pytest
import squares

SIZE = 8


def _cubic(x):
  x = abs(x)
  if x <= 1:
    return 1.5 * x**3 - 2.5 * x**2 + 1
  return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _mirror(place, count):
  while not 0 <= place < count:
    place = -place if place < 0 else 2 * (count - 1) - place
  return place


def _weights(corner, zoom):
  """For each pixel of the square: {place along a side: weight}."""
  widening = max(1 / zoom, 1.0)
  rows = []
  for pixel in range(SIZE):
    centre = corner + (pixel + 0.5) / zoom - 0.5
    reach = 2 * widening
    places = range(math.floor(centre - reach), math.ceil(centre + reach) + 1)
    found = {p: _cubic((p - centre) / widening) for p in places}
    total = sum(found.values())
    rows.append({p: weight / total for p, weight in found.items() if weight})
  return rows


def _brute_force(image, label, top, left, zoom, flip, transpose):
  height, width = label.shape
  square = np.zeros((SIZE, SIZE, 3))
  labels = np.zeros((SIZE, SIZE), np.uint8)
  for i, rows in enumerate(_weights(top, zoom)):
    for j, columns in enumerate(_weights(left, zoom)):
      for y, a in rows.items():
        for x, b in columns.items():
          pixel = image[_mirror(y, height), _mirror(x, width)]
          square[i, j] += a * b * pixel
      y = top + math.floor((i + 0.5) / zoom)
      x = left + math.floor((j + 0.5) / zoom)
      if 0 <= y < height and 0 <= x < width:
        labels[i, j] = label[y, x]
  square = np.clip(square, 0, 255)
  if flip:
    square, labels = square[:, ::-1], labels[:, ::-1]
  if transpose:
    square, labels = square.swapaxes(0, 1), labels.T
  return square, labels


@pytest.fixture(scope="module")
def pictures():
  generator = np.random.default_rng(0)

  def picture(height, width, labelled=True):
    image = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
    label = generator.integers(0, 5, (height, width)).astype(np.uint8)
    return image, label if labelled else None

  return [picture(12, 7, False), picture(13, 9), picture(6, 21)]


@pytest.mark.parametrize("zoom", (0.6, 0.83, 1.0, 1.25))
def test_cut_is_what_loops_compute(pictures, zoom):
  atlas = squares.make_atlas(pictures)
  cut = jax.jit(squares.cut, static_argnames=("size", "least_zoom"))
  for picture, top, left, flip, transpose in (
    (0, 1, 0, False, False),
    (0, -6, 4, True, False),
    (1, -3, 9, False, True),
    (1, 2, -5, True, True),
  ):
    square = squares.Square(
      picture, top, left, np.float32(zoom), flip, transpose
    )
    found = cut(atlas, square, size=SIZE, least_zoom=0.6)
    image, label = pictures[picture + 1]
    expected, labels = _brute_force(
      image.astype(float), label, top, left, zoom, flip, transpose
    )
    # Half a step of rounding, and float32.
    assert np.abs(np.asarray(found["image"], float) - expected).max() < 0.501
    np.testing.assert_array_equal(found["label"], labels)
    np.testing.assert_array_equal(found["weight"], labels != 0)


def test_unscaled_squares_are_copies(pictures):
  atlas = squares.make_atlas(pictures)
  found = squares.middles(atlas, count=9, size=6, labelled=True)
  assert found["image"].shape == (2, 6, 6, 3)
  image, label = pictures[1]
  np.testing.assert_array_equal(found["image"][0], image[3:9, 1:7])
  np.testing.assert_array_equal(found["label"][0], label[3:9, 1:7])
  found = squares.middles(atlas, count=9, size=6, labelled=False)
  # Those with label maps come first.
  np.testing.assert_array_equal(found["image"][2], pictures[0][0][3:9, 0:6])
  assert found.keys() == {"image"}


def test_draws_follow_the_key_and_reach_every_picture():
  levels = (10, 90, 170, 250)
  pictures = [
    (
      np.full((20, 20 + i, 3), level, np.uint8),
      np.full((20, 20 + i), i + 1, np.uint8) if i < 2 else None,
    )
    for i, level in enumerate(levels)
  ]
  atlas = squares.make_atlas(pictures)
  plain = plan.Augmentation(colour=0.0)

  def draw(key, labelled=False, augmentation=plain):
    return squares.draw(
      jax.random.key(key),
      atlas,
      count=64,
      size=SIZE,
      labelled=labelled,
      augmentation=augmentation,
    )

  first, again, other = draw(1), draw(1), draw(2)
  np.testing.assert_array_equal(first["image"], again["image"])
  assert (np.asarray(first["image"]) != np.asarray(other["image"])).any()
  assert set(np.unique(first["image"])) == set(levels)
  labelled = draw(1, labelled=True)
  image, label = (np.asarray(labelled[x]) for x in ("image", "label"))
  assert set(np.unique(image)) == set(levels[:2])
  # Squares lie within pictures that have room for them: nothing is void.
  np.testing.assert_array_equal(label, np.where(image[..., 0] == 10, 1, 2))
  coloured = draw(1, augmentation=plan.Augmentation(colour=1.0))["image"]
  assert len(np.unique(coloured)) > 4


def test_recolour_moves_values_a_little():
  image = np.random.default_rng(0).integers(60, 190, (8, 8, 3)).astype(np.uint8)
  same = squares.recolour(image, jax.random.key(0), 0.0)
  np.testing.assert_array_equal(same, image)
  other = np.asarray(squares.recolour(image, jax.random.key(0), 0.2), int)
  assert 1 < np.abs(other - image).mean() < 40


def test_atlas_refuses_what_does_not_fit(pictures):
  with pytest.raises(ValueError, match="there is none"):
    squares.make_atlas([])
  image, label = pictures[1]
  with pytest.raises(ValueError, match="its label map"):
    squares.make_atlas([(image, label.T)])
