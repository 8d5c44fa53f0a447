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


def test_error_function_of_kernels(float64):
  x = jnp.linspace(-12, 12, 10001)
  cdf, density = gelu.cdf_and_density(x)
  np.testing.assert_allclose(
    cdf, jax.scipy.stats.norm.cdf(x), rtol=0, atol=8e-8
  )
  np.testing.assert_allclose(density, jax.scipy.stats.norm.pdf(x), atol=1e-15)
