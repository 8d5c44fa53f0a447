"""Convolutions at the lower resolution, against what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import resampling_convolution

# Height, width, channels and features.
SIZES = [(4, 6, 3, 5), (2, 2, 2, 1)]


def _convolve(x, kernel):
  """By its definition, place by place."""
  height, width = x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(
    x[:, i : i + height, j : j + width] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )


def _of_enlarged(x, kernel):
  return _convolve(x.repeat(2, 1).repeat(2, 2), kernel)


def _halved(x, kernel):
  out = _convolve(x, kernel)
  return sum(out[:, i::2, j::2] for i in range(2) for j in range(2)) / 4


PAIRS = [
  (_of_enlarged, resampling_convolution.conv3x3_of_enlarged),
  (_halved, resampling_convolution.conv3x3_halved),
]


@pytest.mark.parametrize("plain, ours", PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_gradients(plain, ours, size, float64):
  height, width, channels, features = size
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, height, width, channels)))
  kernel = jnp.asarray(rng.standard_normal((3, 3, channels, features)))
  found = []
  for function in (plain, ours):
    shape = jax.eval_shape(function, x, kernel).shape
    gradient = np.random.default_rng(1).standard_normal(shape)

    @jax.jit
    def both(x, kernel, gradient, function=function):
      out, pull = jax.vjp(function, x, kernel)
      return out, *pull(gradient)

    found.append(both(x, kernel, gradient))
  for expected, one in zip(*found, strict=True):
    assert one.shape == expected.shape
    np.testing.assert_allclose(one, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("plain, ours", PAIRS)
def test_kernels_may_be_wider_than_maps(plain, ours):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, 8, 8, 16)), jnp.bfloat16)
  kernel = jnp.asarray(rng.standard_normal((3, 3, 16, 8)) / 12, jnp.float32)
  out, pull = jax.vjp(ours, x, kernel)
  of_x, of_kernel = pull(jnp.ones_like(out))
  assert (out.dtype, of_x.dtype) == (x.dtype, x.dtype)
  assert of_kernel.dtype == kernel.dtype
  expected = plain(x.astype(jnp.float32), kernel)
  np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.05)


def _multiplications(function, *args):
  return sum(
    np.prod(eqn.invars[1].aval.shape[:3]) * eqn.outvars[0].aval.size
    for eqn in jax.make_jaxpr(function)(*args).eqns
    if eqn.primitive.name == "conv_general_dilated"
  )


def test_multiplications_are_four_ninths_or_a_quarter():
  x, kernel = jnp.zeros((1, 32, 32, 4)), jnp.zeros((3, 3, 4, 4))
  (_, enlarged), (_, halved) = PAIRS
  # A row and a column more are made than are used.
  full = 9 * 4 * (64**2 * 4)
  assert 0.44 < _multiplications(enlarged.__wrapped__, x, kernel) / full < 0.48
  full = 9 * 4 * (32**2 * 4)
  assert 0.25 < _multiplications(halved.__wrapped__, x, kernel) / full < 0.29
