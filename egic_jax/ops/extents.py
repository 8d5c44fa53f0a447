"""The part of a map that counts, when a picture lies in the corner of a larger one.

An extent is (height, width): rows and columns from the upper left that are
valid, integers or traced scalars; None means that the whole map is. What a
network makes of the valid part must not depend on the rest.
"""

import jax
import jax.numpy as jnp

Extent = tuple[int | jax.Array, int | jax.Array]


def scaled(valid: Extent | None, factor: int) -> Extent | None:
  """The extent at `factor` times the resolution."""
  return valid and (valid[0] * factor, valid[1] * factor)


def halved(valid: Extent | None) -> Extent | None:
  """The extent at half the resolution; its sides must be even."""
  return valid and (valid[0] // 2, valid[1] // 2)


def inside(height: int, width: int, valid: Extent) -> jax.Array:
  """(height, width) bool: which elements are valid."""
  rows = jnp.arange(height) < valid[0]
  return rows[:, None] & (jnp.arange(width) < valid[1])


def zero_outside(x: jax.Array, valid: Extent | None) -> jax.Array:
  """(B, H, W, C) with zeros where it is not valid: what convolutions pad with."""
  if valid is None:
    return x
  return jnp.where(inside(*x.shape[1:3], valid)[..., None], x, 0)
