"""GELU and its own gradient, against JAX's."""

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import gelu


def _plain(x):
  return jax.nn.gelu(x, approximate=False)


def test_value_and_gradient_in_float64(float64):
  x = jnp.linspace(-12, 12, 1001)
  np.testing.assert_allclose(gelu.gelu(x), _plain(x), rtol=0, atol=1e-14)
  ours, plain = (jax.vmap(jax.grad(f))(x) for f in (gelu.gelu, _plain))
  np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-13)


def test_float32_is_as_good_as_the_plain_one():
  x = jnp.linspace(-40, 40, 4001, dtype=jnp.float32)
  np.testing.assert_allclose(gelu.gelu(x), _plain(x), rtol=2e-7, atol=6e-7)


def test_those_of_kernels_are_close(float64):
  x = jnp.linspace(-40, 40, 80001)
  ours, gradient = gelu.of_kernels_with_slope(x)
  np.testing.assert_array_equal(ours, gelu.of_kernels(x))
  np.testing.assert_allclose(ours, _plain(x), rtol=0, atol=8e-6)
  plain_gradient = jax.vmap(jax.grad(_plain))(x)
  np.testing.assert_allclose(gradient, plain_gradient, rtol=0, atol=1.3e-5)
  # It is the gradient of what it says.
  near = jnp.abs(x) < 5
  own = jax.vmap(jax.grad(gelu.of_kernels))(x[near])
  np.testing.assert_allclose(gradient[near], own, rtol=0, atol=1e-12)


def test_those_of_kernels_are_finite_far_out():
  x = jnp.array([-(2.0**127), -1e5, 1e5, 2.0**127], jnp.float32)
  ours, gradient = gelu.of_kernels_with_slope(x)
  np.testing.assert_array_equal(ours, [0, 0, 1e5, 2.0**127])
  np.testing.assert_array_equal(gradient, [0, 0, 1, 1])
