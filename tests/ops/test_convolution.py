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
    convolution.plain(x, kernel),
    rtol=0,
    atol=1e-12,
  )
  for ours, plain in zip(
    convolution._backward_by_product(x, kernel, gradient),
    convolution._gradients_of(convolution.plain)(x, kernel, gradient),
    strict=True,
  ):
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_convolution(shape, float64):
  x, kernel, gradient = _case(shape)
  _, pull = jax.vjp(convolution.conv3x3, x, kernel)
  _, expected = jax.vjp(convolution.plain, x, kernel)
  for ours, plain in zip(pull(gradient), expected(gradient), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


def test_places_are_not_mirrored(float64):
  # One pixel, one tap: what lies to the left of a place is the tap (1, 0).
  x = jnp.zeros((1, 3, 4, 1)).at[0, 1, 1, 0].set(1.0)
  kernel = jnp.zeros((3, 3, 1, 1)).at[1, 0, 0, 0].set(5.0)
  found = convolution._by_product(x, kernel)
  assert found[0, 1, 2, 0] == 5 and float(found.sum()) == 5


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (1, 5, 9, 4), (3, 2, 2, 1)])
def test_patches_are_embedded_by_a_product(shape, float64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal(shape))
  kernel = jnp.asarray(rng.standard_normal((2, 2, shape[-1], 5)))
  expected, pull = jax.vjp(convolution._plain_patches, x, kernel)
  gradient = jnp.asarray(rng.standard_normal(expected.shape))
  for function in (convolution._patches_by_product, convolution.conv_patches):
    found, own_pull = jax.vjp(function, x, kernel)
    pairs = zip(
      (found, *own_pull(gradient)), (expected, *pull(gradient)), strict=True
    )
    for ours, plain in pairs:
      np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_several_at_once_are_each_a_convolution(shape, float64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((3, *shape)))
  kernel = jnp.asarray(rng.standard_normal((3, 3, 3, shape[-1], 6)))
  gradient = jnp.asarray(rng.standard_normal((3, *shape[:3], 6)))
  plain = jax.vmap(convolution.plain)
  expected, pull = jax.vjp(plain, x, kernel)
  found, own_pull = jax.vjp(
    lambda x, kernel: convolution.conv3x3_each(x, kernel, jnp.float64),
    x,
    kernel,
  )
  pairs = zip(
    (found, *own_pull(gradient)), (expected, *pull(gradient)), strict=True
  )
  for ours, plain in pairs:
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 4, 6, 5), (2, 8, 16, 3)])
def test_biases_of_several_have_the_sums_of_gradients(shape, float64):
  rng = np.random.default_rng(0)
  x, gradient = jnp.asarray(rng.standard_normal((2, *shape)))
  bias = jnp.asarray(rng.standard_normal((shape[0], shape[-1])))
  out, pull = jax.vjp(convolution.add_bias_each, x, bias)
  for k in range(shape[0]):
    np.testing.assert_array_equal(out[k], x[k] + bias[k])
  of_x, of_bias = pull(gradient)
  np.testing.assert_array_equal(of_x, gradient)
  expected = gradient.sum(tuple(range(1, len(shape) - 1)))
  np.testing.assert_allclose(of_bias, expected, rtol=0, atol=1e-12)


def test_of_several_only_factors_are_rounded():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, 2, 5, 7, 16)), jnp.float32)
  kernel = jnp.asarray(rng.standard_normal((2, 3, 3, 16, 6)), jnp.float32)
  gradient = jnp.asarray(rng.standard_normal((2, 2, 5, 7, 6)), jnp.float32)

  def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)

  expected, pull = jax.vjp(
    jax.vmap(convolution.plain), rounded(x), rounded(kernel)
  )
  found, own_pull = jax.vjp(
    lambda x, kernel: convolution.conv3x3_each(x, kernel, jnp.bfloat16),
    x,
    kernel,
  )
  pairs = zip(
    (found, *own_pull(gradient)),
    (expected, *pull(rounded(gradient))),
    strict=True,
  )
  for ours, plain in pairs:
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-4)
