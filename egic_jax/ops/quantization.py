"""Rounding, its stand-ins in training, and the clipped scale index."""

import jax
import jax.numpy as jnp


def round_straight_through(x: jax.Array) -> jax.Array:
  """Rounds half to even; the gradient passes as if nothing had happened."""
  # In this order the result is a whole number exactly: x - x is zero.
  return jax.lax.stop_gradient(jnp.round(x)) + (x - jax.lax.stop_gradient(x))


def uniform_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """U(-1/2, 1/2), float32: what rounding is to the rate during training."""
  return jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5)


@jax.custom_vjp
def clip_inward(x: jax.Array, low: float, high: float) -> jax.Array:
  """Clips to [low, high]; outside, only gradients that lead back in pass.

  A descent step moves against the gradient, so below `low` a negative gradient
  and above `high` a positive one leads back inside.
  """
  return jnp.clip(x, low, high)


def _clip_forward(x, low, high):
  return jnp.clip(x, low, high), (x, low, high)


def _clip_backward(residuals, gradient):
  x, low, high = residuals
  blocked = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
  return jnp.where(blocked, 0.0, gradient), None, None


clip_inward.defvjp(_clip_forward, _clip_backward)
