"""GELU, x Phi(x), from one error function and with a gradient of its own."""

import math

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """x Phi(x), any shape and floating type.

  `jax.nn.gelu` takes erfc, which keeps digits of the far tail that vanish here
  (they are below 1e-6) and costs a CPU several passes; this takes erf.
  """
  return x * _normal_cdf(x)


def _normal_cdf(x):
  return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


# Phi(x) = 1 / (1 + 2**-q(x)), q(x) = x (c0 + c1 x^2 + ...): fitted to Phi and its
# derivative alike, found by least squares with growing weights of the worst places.
_LOGIT = (
  2.302127124840607,
  0.10509059248544718,
  -0.0002865350455223162,
  -0.00010184583371235904,
  4.062693791861587e-06,
)
# Of x^2: beyond, Phi is 0 or 1, and nothing is to overflow.
_FAR = 100.0


def of_kernels(x: jax.Array) -> jax.Array:
  """GELU within 8e-6, for kernels of 16 bits.

  They have no error function: this takes one exponential and one reciprocal of a
  number.
  """
  return x * _logistic(x, jnp.minimum(x * x, _FAR))


def of_kernels_with_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`of_kernels`, and its derivative, within 1.3e-5 of that of GELU."""
  square = jnp.minimum(x * x, _FAR)
  cdf = _logistic(x, square)
  slopes = [(2 * k + 1) * math.log(2.0) * c for k, c in enumerate(_LOGIT)]
  active = x * cdf
  density = (1.0 - cdf) * _polynomial(slopes, square)
  return active, gpu_kernel.multiply_add(active, density, cdf)


def _logistic(x, square):
  against = gpu_kernel.exp2(x * _polynomial([-c for c in _LOGIT], square))
  return gpu_kernel.reciprocal(1.0 + against)


def _polynomial(coefficients, x):
  total = coefficients[-1]
  for coefficient in reversed(coefficients[:-1]):
    total = gpu_kernel.multiply_add(x, total, coefficient)
  return total


def _forward(x):
  return gelu(x), x


def _backward(x, gradient):
  density = jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))
  return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(_forward, _backward)
