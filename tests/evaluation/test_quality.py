import pathlib

import numpy as np
import pytest

from egic_jax.evaluation import quality

# Two pairs of 192 x 208 pixels with PSNR and MS-SSIM by tf.image.
_FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "quality.npz"


@pytest.fixture(scope="module")
def pair():
  with np.load(_FIXTURE) as fixture:
    return dict(fixture)


def test_psnr_is_that_of_tf_image(pair):
  assert quality.psnr(pair["a"], pair["b"]) == pytest.approx(
    float(pair["psnr"]), abs=1e-5
  )


def test_ms_ssim_is_that_of_tf_image(pair):
  # The sides, 192 and 208, are halved exactly; 26 and 13 are not all even.
  assert quality.ms_ssim(pair["a"], pair["b"]) == pytest.approx(
    float(pair["ms_ssim"]), abs=5e-6
  )


def test_psnr_of_known_errors():
  a = np.full((4, 5, 3), 100, np.uint8)
  assert quality.psnr(a, a) == float("inf")
  assert quality.psnr(a, a + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
  # Differences do not wrap around.
  black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, "u1")
  assert quality.psnr(black, white) == quality.psnr(white, black) == 0.0


def test_ms_ssim_of_equal_and_of_opposed_images(pair):
  a = pair["a"]
  assert quality.ms_ssim(a, a) == pytest.approx(1.0, abs=1e-12)
  assert quality.ms_ssim(a, 255 - a) == pytest.approx(0.0, abs=1e-6)


def test_ms_ssim_falls_with_noise(pair):
  rng = np.random.default_rng(0)
  noise = rng.normal(size=pair["a"].shape)
  scores = [
    quality.ms_ssim(
      pair["a"], np.clip(pair["a"] + s * noise, 0, 255).astype(np.uint8)
    )
    for s in (2, 10, 40)
  ]
  assert 1 > scores[0] > scores[1] > scores[2] > 0


def test_odd_sides_repeat_the_last_row_and_column():
  halved = quality._halve(np.arange(15.0).reshape(1, 3, 5))
  expected = [[[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]]
  np.testing.assert_allclose(halved, expected)


@pytest.mark.parametrize("size", [(161, 161), (161, 300), (177, 163)])
def test_smallest_sizes(size):
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
  assert quality.ms_ssim(a, a) == pytest.approx(1.0)


@pytest.mark.parametrize("size", [(160, 512), (512, 160), (1, 1)])
def test_too_small_for_five_scales(size):
  a = np.zeros((*size, 3), np.uint8)
  assert np.isnan(quality.ms_ssim(a, a))
  assert quality.psnr(a, a) == float("inf")


@pytest.mark.parametrize("measure", [quality.psnr, quality.ms_ssim])
def test_wrong_arguments_are_named(measure):
  image = np.zeros((200, 200, 3), np.uint8)
  with pytest.raises(ValueError, match="a is float64"):
    measure(image / 255, image)
  with pytest.raises(ValueError, match=r"b is uint8 of shape \(200, 200\)"):
    measure(image, image[..., 0])
  with pytest.raises(ValueError, match="equal size"):
    measure(image, image[:199])
