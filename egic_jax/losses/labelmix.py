"""LabelMix: the discriminator should segment a patchwork patch by patch.

Sushko et al., ICLR 2021, section 3.2: some classes of a picture are taken from
the photograph, the others from the reconstruction, and the logits of the
mixture are held close to the same mixture of the logits.
"""

import chex
import jax
import jax.numpy as jnp


def draw_mask(key: jax.Array, labels: jax.Array, num_classes: int) -> jax.Array:
  """A fair coin for each class that the batch's maps show, void included.

  A class shares its coin over the whole batch. Coins of absent classes are
  tossed as well, so that shapes do not depend on the maps; nothing sees them.

  Args:
    key: random key.
    labels: (B, H, W) int or uint8 in 0..num_classes.
    num_classes: N.

  Returns:
    (B, H, W, 1) float32: 1 takes the photograph's pixel, 0 the
    reconstruction's.
  """
  chex.assert_rank(labels, 3)
  coins = jax.random.bernoulli(key, shape=(num_classes + 1,))
  return coins[labels.astype(jnp.int32)][..., None].astype(jnp.float32)


def mix(mask: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
  """mask * real + (1 - mask) * fake, of images or of logits.

  Args:
    mask: (B, H, W, 1), 0 or 1.
    real, fake: (B, H, W, C).

  Returns:
    (B, H, W, C).
  """
  # A choice, not a blend: what is masked out adds nothing, not even a NaN.
  return jnp.where(mask > 0.5, real, fake)


def labelmix(
  mask: jax.Array,
  mixed_logits: jax.Array,
  real_logits: jax.Array,
  fake_logits: jax.Array,
) -> jax.Array:
  """Mean squared difference of the mixture's logits and the logits' mixture.

  Args:
    mask: (B, H, W, 1), as from `draw_mask`.
    mixed_logits: (B, H, W, L), of `mix(mask, image, reconstruction)`.
    real_logits, fake_logits: (B, H, W, L), of the image and the reconstruction.
      Gradients reach all three.

  Returns:
    A scalar, float32, the mean over all elements.
  """
  chex.assert_equal_shape([mixed_logits, real_logits, fake_logits])
  chex.assert_shape(mask, (*mixed_logits.shape[:3], 1))
  expected = mix(mask, real_logits, fake_logits).astype(jnp.float32)
  return jnp.mean(jnp.square(mixed_logits.astype(jnp.float32) - expected))
