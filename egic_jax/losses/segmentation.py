"""Cross-entropy of the discriminator's (N + 1)-class segmentation.

Labels are 0 for void, which no loss sees, 1..N for classes and N + 1 for
"fake"; a pixel has N + 2 logits, of which the first belongs to void.
"""

import chex
import jax
import jax.numpy as jnp

VOID_LABEL = 0


def cross_entropy(
  logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Weighted cross-entropy of each image.

  The sum over pixels of weight * cross-entropy, void pixels having weight 0,
  divided by the number of pixels where that is not 0; 0 if there are none. As
  in the official code, weights scale the sum and not the count.

  Args:
    logits: (B, H, W, N + 2), any float type; computed in float32.
    labels: (B, H, W) int or uint8 in 0..N + 1.
    weights: (B, H, W), not negative; None for 1.

  Returns:
    (B,) float32, nats a pixel. The loss of a batch is their mean.
  """
  chex.assert_rank(logits, 4)
  chex.assert_shape(labels, logits.shape[:3])
  labels = labels.astype(jnp.int32)
  logits = logits.astype(jnp.float32)
  # A comparison instead of a gather: it fuses, and splits over any mesh.
  chosen = labels[..., None] == jnp.arange(logits.shape[-1])
  target = jnp.sum(jnp.where(chosen, logits, 0.0), axis=-1)
  losses = jax.nn.logsumexp(logits, axis=-1) - target
  losses = jnp.where(labels == VOID_LABEL, 0.0, losses)
  if weights is not None:
    chex.assert_shape(weights, labels.shape)
    losses = losses * weights
  count = jnp.sum(losses != 0.0, axis=(1, 2))
  return jnp.sum(losses, axis=(1, 2)) / jnp.maximum(count, 1)


def fake_cross_entropy(logits: jax.Array) -> jax.Array:
  """Cross-entropy of each image with all of its pixels "fake", weight 1.

  Args:
    logits: (B, H, W, N + 2); the last one is that of "fake".

  Returns:
    (B,) float32, nats a pixel.
  """
  fake = jnp.full(logits.shape[:3], logits.shape[-1] - 1, jnp.int32)
  return cross_entropy(logits, fake)


def class_balanced_weights(labels: jax.Array, num_classes: int) -> jax.Array:
  """Pixel weights by which all classes of a batch count the same.

  Inverse frequency as in OASIS (Sushko et al., ICLR 2021, equation 2): pixels
  of the batch / (classes present * pixels of the class), void having weight 0
  and not being counted as a class.

  Args:
    labels: (B, H, W) int or uint8 in 0..num_classes.
    num_classes: N.

  Returns:
    (B, H, W) float32.
  """
  labels = labels.astype(jnp.int32)
  found = labels[..., None] == jnp.arange(1, num_classes + 1)
  counts = jnp.sum(found, axis=(0, 1, 2)).astype(jnp.float32)
  present = jnp.sum(counts > 0)
  per_class = labels.size / (jnp.maximum(counts * present, 1.0))
  return jnp.sum(jnp.where(found, per_class, 0.0), axis=-1)
