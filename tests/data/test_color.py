"""Operations against hand-computed pixels; the policy against its numbers."""

import numpy as np
import pytest

from egic_jax.data import augment, color


def _noise(seed=0, height=40, width=50):
  return np.random.default_rng(seed).integers(
    0, 256, (height, width, 3), np.uint8
  )


def test_policy_is_the_published_one():
  """As pairs of (operation, probability, what the operation gets)."""

  def argument(name, magnitude):
    if name == "equalize":
      return None
    if name == "solarize":
      return int(magnitude / 10 * 256)
    return round(magnitude / 10 * 1.8 + 0.1, 6)

  policy = [
    [(name, chance, argument(name, size)) for name, chance, size in pair]
    for pair in color.POLICIES["simple_classification_0.2"]
  ]
  assert policy == [
    [("sharpness", 0.4, 0.352), ("brightness", 0.2, 0.46)],
    [("equalize", 0.0, None), ("contrast", 0.2, 0.46)],
    [("sharpness", 0.2, 0.424), ("color", 0.2, 0.424)],
    [("solarize", 0.2, 35), ("equalize", 0.6, None)],
    [("sharpness", 0.2, 0.136), ("equalize", 0.2, None)],
  ]


def test_enhancement_factor():
  assert color.enhancement_factor(0) == pytest.approx(0.1)
  assert color.enhancement_factor(5) == pytest.approx(1.0)
  assert color.enhancement_factor(10) == pytest.approx(1.9)


@pytest.mark.parametrize("magnitude", [0.0, 2.0, 5.0, 9.0])
def test_brightness_scales_and_truncates(magnitude):
  image = _noise()
  factor = color.enhancement_factor(magnitude)
  expected = np.clip(np.float32(factor) * image, 0, 255).astype(int)
  result = color.brightness(image, magnitude)
  assert np.abs(result - expected).max() <= 1
  assert result.dtype == np.uint8


def test_color_moves_towards_grey():
  image = _noise()
  grey = image @ np.array([0.299, 0.587, 0.114])
  factor = color.enhancement_factor(2.0)
  expected = grey[..., None] + factor * (image - grey[..., None])
  assert np.abs(color.color(image, 2.0) - expected).max() <= 1.5


def test_sharpness_blends_with_the_smoothed_picture():
  image = _noise().astype(float)
  height, width = image.shape[:2]
  smooth = image.copy()  # The edge of the picture stays.
  inner = sum(
    (5 if dy == dx == 1 else 1)
    * image[dy : height - 2 + dy, dx : width - 2 + dx]
    for dy in range(3)
    for dx in range(3)
  )
  smooth[1:-1, 1:-1] = inner / 13
  factor = color.enhancement_factor(1.4)
  expected = smooth + factor * (image - smooth)
  result = color.sharpness(image.astype(np.uint8), 1.4)
  assert np.abs(result - expected).max() <= 1.5


def test_contrast_blends_with_the_level_of_the_original():
  factor = color.enhancement_factor(2.0)
  for height, width, level in ((256, 256, 255), (64, 100, 25)):
    image = _noise(1, height, width)
    expected = level + factor * (image.astype(float) - level)
    assert np.abs(color.contrast(image, 2.0) - expected).max() <= 1


def test_solarize_inverts_from_the_threshold_on():
  image = np.array([[[34, 35, 36]]], np.uint8)
  assert color.solarize(image, 1.4).tolist() == [[[34, 220, 219]]]


def test_equalize_flattens_each_channel():
  dark = (_noise(2, 100, 100) // 8 + [[[10, 60, 200]]]).astype(np.uint8)
  result = color.equalize(dark, 1.0)
  for channel in range(3):
    assert result[..., channel].min() == 0
    assert result[..., channel].max() >= 250
    # Still in order.
    order = np.argsort(dark[..., channel], axis=None, kind="stable")
    assert (np.diff(result[..., channel].ravel()[order].astype(int)) >= 0).all()


def test_operations_occur_as_often_as_the_policy_says(monkeypatch):
  count = {}

  def counting(name):
    def operation(image, magnitude):
      key = (name, round(magnitude, 6))
      count[key] = count.get(key, 0) + 1
      return image

    return operation

  monkeypatch.setattr(
    color, "_OPERATIONS", {name: counting(name) for name in color._OPERATIONS}
  )
  trials = 20_000
  rng = np.random.default_rng(0)
  image = np.zeros((1, 1, 3), np.uint8)
  for _ in range(trials):
    color.apply_policy(image, color.POLICIES["simple_classification_0.2"], rng)
  share = {key: 5 * value / trials for key, value in count.items()}
  assert share == pytest.approx(
    {
      ("sharpness", 1.4): 0.4,
      ("brightness", 2.0): 0.2,
      ("contrast", 2.0): 0.2,
      ("sharpness", 1.8): 0.2,
      ("color", 1.8): 0.2,
      ("solarize", 1.4): 0.2,
      ("equalize", 1.8): 0.6,
      ("sharpness", 0.2): 0.2,
      ("equalize", 1.4): 0.2,
    },
    abs=0.025,
  )


def test_colours_change_and_nothing_else():
  rng = np.random.default_rng(3)
  element = {
    "image": _noise(4, 60, 70),
    "label": rng.integers(0, 9, (60, 70), np.uint8),
  }
  for array in element.values():
    array.flags.writeable = False
  options = {"crop_size": 40, "scale_range": (0.5, 1.5)}
  plain = augment.RandomCrop(**options)
  colored = augment.RandomCrop(
    **options, color_policy="simple_classification_0.2"
  )
  changed = 0
  for seed in range(60):
    one = plain.random_map(element, np.random.default_rng(seed))
    two = colored.random_map(element, np.random.default_rng(seed))
    again = colored.random_map(element, np.random.default_rng(seed))
    np.testing.assert_array_equal(one["label"], two["label"])
    np.testing.assert_array_equal(two["image"], again["image"])
    changed += not np.array_equal(one["image"], two["image"])
  # A picture stays as it is with probability
  # (.6 * .8 + .8 + .8 * .8 + .8 * .4 + .8 * .8) / 5 = 0.58.
  assert 12 < changed < 38


def test_unknown_policy_is_named():
  with pytest.raises(ValueError, match="color_policy = 'vivid'"):
    augment.RandomCrop(crop_size=8, color_policy="vivid")
