"""Rounding and clipping, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import quantization


def test_straight_through_rounds_exactly_and_passes_gradients():
  x = jnp.asarray(np.random.default_rng(0).normal(0, 1e3, 10_000), jnp.float32)
  rounded = quantization.round_straight_through(x)
  np.testing.assert_array_equal(rounded, np.round(np.asarray(x)))
  gradient = jax.grad(
    lambda x: (3 * quantization.round_straight_through(x)).sum()
  )
  np.testing.assert_array_equal(gradient(x), np.full(x.shape, 3.0, np.float32))


def test_noise_is_uniform_around_zero():
  noise = np.asarray(quantization.uniform_noise(jax.random.key(0), (100_000,)))
  assert noise.min() >= -0.5 and noise.max() < 0.5
  assert abs(noise.mean()) < 0.005
  assert abs(noise.var() - 1 / 12) < 0.001


def test_clip_lets_only_gradients_pass_that_lead_back():
  x = jnp.array([-2.0, 0.5, 3.0])

  def gradient(direction):
    return np.asarray(
      jax.grad(
        lambda x: direction * quantization.clip_inward(x, 0.0, 1.0).sum()
      )(x)
    )

  np.testing.assert_array_equal(
    quantization.clip_inward(x, 0.0, 1.0), [0, 0.5, 1]
  )
  # Descent moves against the gradient: upwards for -1, downwards for +1.
  np.testing.assert_array_equal(gradient(-1.0), [-1, -1, 0])
  np.testing.assert_array_equal(gradient(+1.0), [0, 1, 1])
