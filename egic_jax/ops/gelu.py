"""GELU, x Phi(x), from one error function and with a gradient of its own."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """x Phi(x), any shape and floating type.

  `jax.nn.gelu` takes erfc, which keeps digits of the far tail that vanish here
  (they are below 1e-6) and costs a CPU several passes; this takes erf.
  """
  return x * _normal_cdf(x)


def _normal_cdf(x):
  return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


# Of Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
_SLOPE = 0.3275911
_COEFFICIENTS = (
  0.254829592,
  -0.284496736,
  1.421413741,
  -1.453152027,
  1.061405429,
)


def cdf_and_density(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Phi(x) within 8e-8, and phi(x), of one exponential and no branches.

  For kernels of 16 bits, which have no error function.
  """
  exponential = jnp.exp(-0.5 * x * x)
  t = 1.0 / (1.0 + (_SLOPE * math.sqrt(0.5)) * jnp.abs(x))
  polynomial = jnp.zeros_like(x)
  for coefficient in reversed(_COEFFICIENTS):
    polynomial = (polynomial + coefficient) * t
  upper = 0.5 * polynomial * exponential
  density = exponential * (1.0 / math.sqrt(2.0 * math.pi))
  return jnp.where(x < 0, upper, 1.0 - upper), density


def _forward(x):
  return gelu(x), x


def _backward(x, gradient):
  density = jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
  return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(_forward, _backward)
