"""Layer normalisation with a gradient of its own, in a form CPUs are fast at."""

import jax
import jax.numpy as jnp

EPSILON = 1e-5


@jax.jit  # So that layers of one shape are traced once.
def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
  """(x - mean) / sqrt(variance + 1e-5) * scale + bias, over the last axis.

  Ba, Kiros, Hinton, Layer Normalization, 2016, equation 4. The variance is that
  of x - mean, not a difference of two large numbers.

  The gradient is written out because XLA:CPU, left alone, takes statistics and
  sums one number at a time, and some of them again in every loop that needs
  them. As products with ones they are a matrix routine's, and run once. Where
  no gradient is asked for, sums are as fast and stay sums.

  Args:
    x: (..., C), any floating type.
    scale, bias: (C,), float32 or wider.

  Returns:
    (..., C), float32 or wider.
  """
  return _layer_norm(x, scale, bias)


@jax.custom_vjp
def _layer_norm(x, scale, bias):
  return _normalise(x, scale, bias, _mean)[0]


def _normalise(x, scale, bias, mean_of):
  """y (..., C), mean and 1 / deviation (..., 1), float32 or wider."""
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  mean = mean_of(x)
  centred = x - mean
  inverse_deviation = jax.lax.rsqrt(mean_of(centred * centred) + EPSILON)
  return centred * (inverse_deviation * scale) + bias, mean, inverse_deviation


def _forward(x, scale, bias):
  y, mean, inverse_deviation = _normalise(x, scale, bias, _fast_mean)
  # x is kept anyway, for the residual sum; x - mean would be another map.
  return y, (x, mean, inverse_deviation, scale)


def _backward(residuals, gradient):
  x, mean, inverse_deviation, scale = residuals
  normal = (x.astype(mean.dtype) - mean) * inverse_deviation
  of_normal = gradient * scale
  of_x = inverse_deviation * (
    of_normal - _fast_mean(of_normal) - normal * _fast_mean(of_normal * normal)
  )
  of_scale = _sum_to_channels(gradient * normal).astype(scale.dtype)
  of_bias = _sum_to_channels(gradient).astype(scale.dtype)
  return of_x.astype(x.dtype), of_scale, of_bias


_layer_norm.defvjp(_forward, _backward)


def _mean(x):
  """(..., C) > (..., 1)."""
  return x.mean(axis=-1, keepdims=True)


def _fast_mean(x):
  """Likewise; on a CPU a product with a column of 1 / C."""

  def product(x):
    column = jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
    return (x.reshape(-1, x.shape[-1]) @ column).reshape(*x.shape[:-1], 1)

  return jax.lax.platform_dependent(x, cpu=product, default=_mean)


def _sum_to_channels(x):
  """(..., C) > (C,); on a CPU mostly a product with a row of ones.

  Of rows as long as the last two axes: sums in two steps lose fewer digits.
  """

  def product(x):
    rows = x.reshape(-1, x.shape[-1] * (x.shape[-2] if x.ndim > 1 else 1))
    total = jnp.ones((1, rows.shape[0]), x.dtype) @ rows
    return total.reshape(-1, x.shape[-1]).sum(axis=0)

  def plain(x):
    return x.sum(axis=tuple(range(x.ndim - 1)))

  return jax.lax.platform_dependent(x, cpu=product, default=plain)
