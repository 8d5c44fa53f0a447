"""LayerNorm and its own gradient, against Flax's and the one JAX derives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.models import layers
from egic_jax.ops import layer_norm


def _plain(x, scale, bias):
  norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=x.dtype)
  return norm.apply({"params": {"scale": scale, "bias": bias}}, x)


def _case(shape, dtype):
  """x far from zero mean, scale, bias, weight of the output."""
  rng = np.random.default_rng(0)
  x = 5 + rng.standard_normal(shape) * rng.uniform(0.01, 9, shape[:-1] + (1,))
  scale, bias = rng.standard_normal((2, shape[-1]))
  arrays = (x, scale, bias, rng.standard_normal(shape))
  return tuple(jnp.asarray(array, dtype) for array in arrays)


def _values_and_gradients(norm, x, scale, bias, weight):
  y, pull_back = jax.vjp(norm, x, scale, bias)
  return y, *pull_back(weight)


@pytest.mark.parametrize("shape", [(7,), (6, 5), (2, 3, 5), (2, 3, 4, 32)])
def test_value_and_gradients_in_float64(shape, float64):
  case = _case(shape, jnp.float64)
  ours = _values_and_gradients(layer_norm.layer_norm, *case)
  plain = _values_and_gradients(_plain, *case)
  for a, b in zip(ours, plain, strict=True):
    assert a.dtype == b.dtype == jnp.float64
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11)


def test_long_sums_in_float32():
  case = _case((4, 64, 64, 16), jnp.float32)
  ours = _values_and_gradients(layer_norm.layer_norm, *case)
  plain = _values_and_gradients(_plain, *case)
  for a, b in zip(ours, plain, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=5e-5 * np.abs(b).max())


def test_without_a_gradient_the_bits_are_flax_s():
  x, scale, bias, _ = _case((2, 8, 8, 16), jnp.float32)
  np.testing.assert_array_equal(
    jax.jit(layer_norm.layer_norm)(x, scale, bias),
    jax.jit(_plain)(x, scale, bias),
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_layer_is_nn_layer_norm(dtype):
  x = _case((2, 4, 4, 8), dtype)[0]
  plain = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=dtype)
  ours = layers.LayerNorm(dtype)
  key = jax.random.key(0)
  params = plain.init(key, x)
  jax.tree.map(np.testing.assert_array_equal, params, ours.init(key, x))

  def run(norm):
    def loss(params, x):
      # Ours gives x back, too.
      y = jax.tree.leaves(norm.apply(params, x))[-1]
      return jnp.sum(y.astype(jnp.float32) ** 3), y

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

  ours, plain = run(ours), run(plain)
  slack = 5e-5 if dtype == jnp.float32 else 0.02
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
    assert a.dtype == b.dtype
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    np.testing.assert_allclose(a, b, rtol=0, atol=slack * np.abs(b).max())
