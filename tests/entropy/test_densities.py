"""Bits of the two densities against float64 integrals, and at extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from egic_jax.entropy import factorized, gaussian


def test_scale_table_is_log_spaced_from_0_11_to_256():
  table = gaussian.scale_table()
  assert table.shape == (64,)
  np.testing.assert_allclose(table[[0, -1]], [0.11, 256.0])
  np.testing.assert_allclose(np.diff(np.log(table)), np.log(256 / 0.11) / 63)
  np.testing.assert_allclose(gaussian.scale(jnp.arange(64.0)), table, rtol=1e-5)
  assert gaussian.index_of_scale(table[17]) == pytest.approx(17)


@pytest.mark.parametrize("index", [0.0, 10.3, 40.0, 63.0])
def test_gaussian_bits_equal_the_integral(index):
  sigma = 0.11 * (256 / 0.11) ** (index / 63)
  residual = np.linspace(-4 * sigma - 1, 4 * sigma + 1, 41)
  upper = scipy.special.ndtr((0.5 - np.abs(residual)) / sigma)
  lower = scipy.special.ndtr((-0.5 - np.abs(residual)) / sigma)
  ours = gaussian.bits(
    jnp.asarray(residual, jnp.float32), jnp.full(41, index, jnp.float32)
  )
  np.testing.assert_allclose(
    ours, -np.log2(upper - lower), rtol=2e-4, atol=1e-6
  )


def test_gaussian_is_a_probability_mass_on_whole_numbers():
  whole = jnp.arange(-3000.0, 3001.0)
  for index in (0.0, 31.5, 63.0):
    total = jnp.exp2(-gaussian.bits(whole, jnp.full_like(whole, index))).sum()
    assert float(total) == pytest.approx(1, abs=1e-4)


def test_gaussian_is_finite_with_finite_gradients_far_out():
  residual = jnp.array([-1e5, -300.0, 0.0, 0.5, 1e5])
  for index in (0.0, 63.0):
    indices = jnp.full_like(residual, index)
    bits = gaussian.bits(residual, indices)
    assert np.isfinite(bits).all() and (bits >= 0).all()
    slopes = jax.grad(lambda r, i: gaussian.bits(r, i).sum(), argnums=(0, 1))(
      residual, indices
    )
    assert all(np.isfinite(s).all() for s in slopes)
    # Nothing more to gain in the middle, everything by moving inwards outside.
    assert float(slopes[0][0]) < 0 < float(slopes[0][-1])


@pytest.fixture
def prior():
  rng = np.random.default_rng(0)
  return {
    name: factorized.draw_parameter(name, shape, rng).astype(np.float32)
    + 0.3 * rng.standard_normal(shape).astype(np.float32)
    for name, shape in factorized.param_shapes(5).items()
  }


def _cdf(prior, x):
  """The cumulative density in float64, written with matrices: (C, N)."""
  h = x[:, None, :].astype(np.float64)
  for k in range(3):
    h = np.logaddexp(0, prior[f"matrices_{k}"].astype(np.float64)) @ h
    h = h + prior[f"biases_{k}"]
    if k < 2:
      h = h + np.tanh(prior[f"factors_{k}"].astype(np.float64)) * np.tanh(h)
  return scipy.special.expit(h[:, 0])


def test_prior_bits_equal_the_difference_of_the_cdf(prior):
  x = np.tile(np.linspace(-20, 20, 81), (5, 1))
  expected = -np.log2(_cdf(prior, x + 0.5) - _cdf(prior, x - 0.5))
  ours = factorized.bits(prior, jnp.asarray(x.T, jnp.float32)).T
  np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_prior_is_a_probability_mass_on_whole_numbers(prior):
  whole = jnp.tile(jnp.arange(-5000.0, 5001.0)[:, None], (1, 5))
  total = jnp.exp2(-factorized.bits(prior, whole)).sum(0)
  np.testing.assert_allclose(total, 1, atol=1e-3)


def test_prior_is_finite_with_finite_gradients_far_out(prior):
  z = jnp.array([-1e5, 0.0, 1e5])[:, None] * jnp.ones(5)
  assert np.isfinite(factorized.bits(prior, z)).all()
  slopes = jax.grad(lambda p, z: factorized.bits(p, z).sum(), argnums=(0, 1))(
    prior, z
  )
  assert all(np.isfinite(s).all() for s in jax.tree.leaves(slopes))


def test_untrained_prior_is_about_ten_wide():
  rng = np.random.default_rng(0)
  prior = {
    name: factorized.draw_parameter(name, shape, rng)
    for name, shape in factorized.param_shapes(50).items()
  }
  z = np.tile(np.arange(-400.0, 401.0), (50, 1))
  mass = _cdf(prior, z + 0.5) - _cdf(prior, z - 0.5)
  spread = np.sqrt((mass * z**2).sum(1) - (mass * z).sum(1) ** 2)
  assert 5 < np.median(spread) < 40
