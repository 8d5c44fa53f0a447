"""Power iterations find the largest singular value and pass its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import spectral_norm


@pytest.fixture
def kernel():
  return jax.random.normal(jax.random.key(0), (3, 3, 4, 6))


def _settle(kernel, steps):
  u, sigmas = jnp.ones(kernel.shape[-1]), []
  step = jax.jit(spectral_norm.power_iteration)
  for _ in range(steps):
    sigma, u = step(kernel, u)
    sigmas.append(float(sigma))
  return sigmas, u


def test_approaches_the_largest_singular_value_from_below(kernel):
  sigmas, u = _settle(kernel, 200)
  true = np.linalg.svd(np.reshape(kernel, (-1, 6)), compute_uv=False)[0]
  assert sigmas[0] < 0.999 * true
  assert all(b >= a - 1e-4 for a, b in zip(sigmas, sigmas[1:], strict=False))
  assert sigmas[-1] == pytest.approx(true, rel=1e-5)
  assert jnp.linalg.norm(u) == pytest.approx(1, rel=1e-5)


def test_gradient_is_that_of_the_singular_value(kernel):
  """d sigma / d W = v u^T, and none of it through u."""
  _, u = _settle(kernel, 200)
  ours = jax.grad(lambda k: spectral_norm.power_iteration(k, u)[0])(kernel)
  left, _, right = np.linalg.svd(
    np.reshape(kernel, (-1, 6)), full_matrices=False
  )
  expected = np.outer(left[:, 0], right[0])
  np.testing.assert_allclose(ours.reshape(-1, 6), expected, atol=1e-4)
  of_u = jax.grad(lambda u: spectral_norm.power_iteration(kernel, u)[0])(u)
  assert not np.any(of_u)


def test_zero_kernel_stays_finite():
  kernel = jnp.zeros((1, 1, 3, 2))
  sigma, u = spectral_norm.power_iteration(kernel, jnp.ones(2))
  assert sigma == 0 and np.isfinite(u).all()
