"""The convolution as a product and a sum, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import convolution

SHAPES = [(2, 5, 7, 4), (1, 1, 1, 3), (2, 2, 9, 3)]


def _case(shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal(shape))
  kernel = jnp.asarray(rng.standard_normal((3, 3, shape[-1], 6)))
  gradient = jnp.asarray(rng.standard_normal((*shape[:3], 6)))
  return x, kernel, gradient


@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_and_a_sum_are_a_convolution(shape, float64):
  x, kernel, gradient = _case(shape)
  np.testing.assert_allclose(
    convolution._by_product(x, kernel),
    convolution._plain(x, kernel),
    rtol=0,
    atol=1e-12,
  )
  for ours, plain in zip(
    convolution._backward_by_product(x, kernel, gradient),
    convolution._backward_plain(x, kernel, gradient),
    strict=True,
  ):
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_convolution(shape, float64):
  x, kernel, gradient = _case(shape)
  _, pull = jax.vjp(convolution.conv3x3, x, kernel)
  _, expected = jax.vjp(convolution._plain, x, kernel)
  for ours, plain in zip(pull(gradient), expected(gradient), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


def test_places_are_not_mirrored(float64):
  # One pixel, one tap: what lies to the left of a place is the tap (1, 0).
  x = jnp.zeros((1, 3, 4, 1)).at[0, 1, 1, 0].set(1.0)
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, 0, 0, 0].set(5.0)
  found = convolution._by_product(x, kernel)
  assert found[0, 1, 2, 0] == 5 and float(found.sum()) == 5
