"""Gaussian conditional: bits of y given means and scale indices.

y_hat is modelled as a Gaussian convolved with U(-1/2, 1/2) (Balle et al., ICLR
2018, equation 8), its standard deviation one of 64 log-spaced values addressed
by an index. Training and rate estimates use the real-valued index, the range
coder the rounded one.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

NUM_SCALES = 64
SCALE_MIN = 0.11
SCALE_MAX = 256.0

_LOG_STEP = (math.log(SCALE_MAX) - math.log(SCALE_MIN)) / (NUM_SCALES - 1)


def scale_table() -> np.ndarray:
  """Standard deviations of the integer indices: (64,) float64, 0.11 to 256."""
  return np.exp(math.log(SCALE_MIN) + _LOG_STEP * np.arange(NUM_SCALES))


def scale(index: jax.Array) -> jax.Array:
  """Standard deviation of a real-valued index in [0, 63]."""
  return jnp.exp(math.log(SCALE_MIN) + _LOG_STEP * index)


def index_of_scale(sigma: float) -> float:
  """Real-valued index of a standard deviation; inverse of `scale`."""
  return (math.log(sigma) - math.log(SCALE_MIN)) / _LOG_STEP


def bits(residual: jax.Array, scale_index: jax.Array) -> jax.Array:
  """Information content of y - mean, element by element.

  -log2 [Phi((r + 1/2) / sigma) - Phi((r - 1/2) / sigma)], evaluated in the
  lower tail and in log space, so that it stays finite with finite gradients
  for any residual.

  Args:
    residual: y_hat - mean or noisy y - mean, any shape, float32.
    scale_index: same shape, real-valued, in [0, 63].

  Returns:
    Same shape, bits, >= 0.
  """
  distance = jnp.abs(residual)
  inverse_scale = 1.0 / scale(scale_index)
  upper = jax.scipy.special.log_ndtr((0.5 - distance) * inverse_scale)
  lower = jax.scipy.special.log_ndtr((-0.5 - distance) * inverse_scale)
  nats = -(upper + jnp.log(-jnp.expm1(lower - upper)))
  return nats / math.log(2)
