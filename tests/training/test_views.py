"""What panels show."""

import jax
import micro_training
import numpy as np
import pytest

from egic_jax.training import panels, views


@pytest.fixture(scope="module")
def made():
  return views.make_views(micro_training.micro_networks())


def test_reconstruction_is_an_image_with_its_rate(made, params):
  image = micro_training.uint8_batch(2)
  pictures, numbers = jax.jit(made["reconstruction"])(params, {"image": image})
  assert pictures["output"].shape == image.shape
  assert pictures["output"].dtype == np.uint8
  assert numbers["output/bpp"].shape == (2,)
  assert np.all(np.asarray(numbers["output/bpp"]) > 0)
  error = np.asarray(pictures["output"], float) - image
  psnr = 10 * np.log10(255**2 / np.mean(error**2, axis=(1, 2, 3)))
  np.testing.assert_allclose(numbers["output/psnr"], psnr, rtol=1e-4)


def test_colours_of_labels_differ():
  colours = views.palette(133)
  assert colours.shape == (135, 3)
  assert colours.dtype == np.uint8
  assert len({tuple(colour) for colour in colours}) == 135
  assert tuple(colours[0]) == (0, 0, 0)


def test_names_of_scalars():
  assert panels._scalar_name("output/psnr") == "sample_psnr"
  assert panels._scalar_name("alpha 0.25/psnr") == "sample_psnr_alpha_0.25"
  assert panels._scalar_name("D(output)/fake") == "sample_fake_D_output"
