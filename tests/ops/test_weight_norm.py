"""Weight norm: directions of length one, and Salimans & Kingma's start."""

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import weight_norm


def test_each_output_channel_has_length_one():
  v = jax.random.normal(jax.random.key(0), (3, 3, 5, 7)) * jnp.arange(1, 8)
  direction = np.asarray(weight_norm.direction(v))
  lengths = np.sqrt(np.square(direction).sum((0, 1, 2)))
  np.testing.assert_allclose(lengths, 1, rtol=1e-5)
  ratio = direction / np.asarray(v)
  assert np.ptp(ratio, axis=(0, 1, 2)).max() < 1e-6 and (ratio > 0).all()


def test_gradient_is_orthogonal_to_the_direction():
  v = jax.random.normal(jax.random.key(0), (2, 3, 4))
  weights = jax.random.normal(jax.random.key(1), v.shape)
  gradient = jax.grad(lambda v: jnp.sum(weights * weight_norm.direction(v)))(v)
  np.testing.assert_allclose(jnp.sum(gradient * v, (0, 1)), 0, atol=1e-5)


def test_zeros_stay_finite():
  value, gradient = jax.value_and_grad(
    lambda v: weight_norm.direction(v).sum()
  )(jnp.zeros((3, 2)))
  assert value == 0 and np.isfinite(gradient).all()


def test_data_gives_zero_mean_and_unit_variance():
  rng = np.random.default_rng(0)
  outputs = rng.normal(3, [1, 50, 0.01], (4, 8, 8, 3)).astype(np.float32)
  scale, bias = weight_norm.scale_and_bias(outputs)
  settled = scale * outputs + bias
  np.testing.assert_allclose(settled.mean((0, 1, 2)), 0, atol=1e-3)
  np.testing.assert_allclose(settled.std((0, 1, 2)), 1, rtol=1e-4)


def test_constant_output_stays_finite():
  scale, bias = weight_norm.scale_and_bias(jnp.full((2, 4, 4, 1), 2.0))
  assert np.isfinite(scale).all() and np.isfinite(bias).all()
