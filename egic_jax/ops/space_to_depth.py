"""Trading resolution for channels, factor two, in the orders Swin uses."""

import jax
import jax.numpy as jnp


def merge_phases(x: jax.Array) -> jax.Array:
  """(B, H, W, C) > (B, H/2, W/2, 4C), phases (0,0) (1,0) (0,1) (1,1)."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  x = x.transpose(0, 1, 3, 4, 2, 5)  # Column phase outermost.
  return x.reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x: jax.Array) -> jax.Array:
  """(B, H, W, 4C) > (B, 2H, 2W, C), phases (0,0) (0,1) (1,0) (1,1)."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height, width, 2, 2, channels // 4)
  x = jnp.transpose(x, (0, 1, 3, 2, 4, 5))
  return x.reshape(batch, 2 * height, 2 * width, channels // 4)
