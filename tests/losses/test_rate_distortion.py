"""The objective against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.losses import rate_distortion
from egic_jax.models import codec


def test_weights_and_units():
  image = jnp.full((2, 10, 20, 3), 0.5)
  output = codec.CodecOutput(
    x_hat=image + jnp.array([0.1, -0.1])[:, None, None, None],
    y_bits=jnp.array([[100.0, 50.0], [0.0, 50.0]]),
    z_bits=jnp.array([20.0, 40.0]),
    **dict.fromkeys(
      ("y", "z", "y_hat", "z_hat", "mean", "scale_index"), jnp.zeros(())
    ),
  )
  loss, scalars = rate_distortion.rate_distortion(
    image, output, distortion_weight=0.01, rate_weight=2.0
  )
  assert float(scalars["mse_255"]) == pytest.approx(0.01 * 255**2, rel=1e-5)
  assert float(scalars["psnr"]) == pytest.approx(20, rel=1e-5)
  assert float(scalars["y_bpp"]) == pytest.approx(100 / 200)
  assert float(scalars["z_bpp"]) == pytest.approx(30 / 200)
  assert float(loss) == pytest.approx(0.01 * 650.25 + 2 * 0.65, rel=1e-5)
  assert np.isclose(scalars["bpp"], 0.65)


def test_each_image_has_its_own_weights():
  image = jnp.full((2, 10, 20, 3), 0.5)
  output = codec.CodecOutput(
    x_hat=image + jnp.array([0.1, 0.2])[:, None, None, None],
    y_bits=jnp.array([[100.0], [30.0]]),
    z_bits=jnp.array([20.0, 10.0]),
    **dict.fromkeys(
      ("y", "z", "y_hat", "z_hat", "mean", "scale_index"), jnp.zeros(())
    ),
  )
  loss, _ = rate_distortion.rate_distortion(
    image,
    output,
    distortion_weight=jnp.array([0.01, 0.001]),
    rate_weight=2.0,
    image_weight=jnp.array([0.5, 3.0]),
  )
  first = 0.01 * 650.25 + 2 * 120 / 200
  second = 0.001 * 4 * 650.25 + 2 * 40 / 200
  assert float(loss) == pytest.approx((0.5 * first + 3 * second) / 2, rel=1e-5)
