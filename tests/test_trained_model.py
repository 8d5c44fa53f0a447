"""The trained model in the repository still does what its table says."""

import pathlib

import pytest
import skimage.data

import egic_jax
from egic_jax.evaluation import quality

MODEL = (
  pathlib.Path(__file__).resolve().parents[1]
  / "experiments/stage1_mse/tiny.safetensors"
)


@pytest.fixture(scope="module")
def coded():
  codec = egic_jax.load_model(MODEL)
  image = skimage.data.coffee()
  data = egic_jax.encode(codec, image)
  return codec, image, data


def test_rate_and_quality_on_a_photograph(coded):
  codec, image, data = coded
  pixels = image.shape[0] * image.shape[1]
  decoded = egic_jax.decode(codec, data)
  assert 8 * len(data) / pixels < 0.235
  assert quality.psnr(image, decoded) > 26.6


def test_size_is_the_estimated_one(coded):
  codec, image, data = coded
  estimate = codec.estimate_bits(image)["bits"] / 8
  assert abs(len(data) - estimate) < 0.005 * estimate + 64


def test_kodak(photographs, coded):
  """One picture of the evaluation set, where there is one."""
  from egic_jax.evaluation import folder

  codec, _, _ = coded
  path = photographs / "kodak" / "kodim03.png"
  (result,) = folder.evaluate(codec, [path])
  assert result.bpp < 0.123 and result.psnr > 29.7 and result.ms_ssim > 0.927
  pixels = result.width * result.height
  slack = 0.005 * result.estimated_bpp * pixels / 8 + 64
  assert abs(result.bytes - result.estimated_bpp * pixels / 8) < slack
