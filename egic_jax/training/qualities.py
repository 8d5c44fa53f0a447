"""Which quality each image of a batch is coded with, and what that weighs.

Only of models with levels (`models.rate_gains`); the others have one rate.
"""

import jax
import jax.numpy as jnp


def draw(key: jax.Array, count: int, levels: int) -> jax.Array:
  """Qualities of a batch, spread evenly: one in each of *count* equal parts.

  Args:
    key: random key; what is drawn here is independent of what else it serves.
    count: images.
    levels: of the model.

  Returns:
    (count,) float32 in [1, levels).
  """
  key = jax.random.fold_in(key, 1)
  place = jnp.arange(count) + jax.random.uniform(key, (count,))
  return 1.0 + (levels - 1) * place / count


def spread(count: int, levels: int) -> jax.Array | None:
  """Qualities to look at: from 1 to *levels*, one alone is in the middle.

  Returns:
    (count,) float32; None for a model of one rate (levels 0).
  """
  if not levels:
    return None
  if count == 1:
    return jnp.full(1, (1.0 + levels) / 2)
  return jnp.linspace(1.0, levels, count)


def distortion_weights(
  quality: jax.Array, levels: int, lowest: float, highest: float
) -> tuple[jax.Array, jax.Array]:
  """The weight of the squared error at each quality, and of the whole loss.

  Losses grow about as the square root of the first, so that high qualities
  would drown the low ones: the second takes that away again, and a per cent
  counts alike at all of them.

  Args:
    quality: (B,) in [1, levels].
    levels: of the model.
    lowest, highest: weight at quality 1 and at *levels*; between them their
      logarithm is linear.

  Returns:
    (B,) weights of the squared error, (B,) weights of the loss, which are 1 in
    the middle.
  """
  place = (quality - 1.0) / (levels - 1)
  weight = lowest ** (1.0 - place) * highest**place
  return weight, jnp.sqrt((lowest * highest) ** 0.5 / weight)
