"""Segmentation on the validation split: mIoU and pixel accuracy."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.losses import segmentation
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import networks as networks_lib
from egic_jax.training import objectives, sharding


def confusion_matrix(
  predicted: jax.Array, labels: jax.Array, num_classes: int
) -> jax.Array:
  """How often each class is taken for each.

  Args:
    predicted: (...) int in 1..num_classes.
    labels: (...) int in 0..num_classes; void is not counted.
    num_classes: N.

  Returns:
    (N, N) int32, [label - 1, predicted - 1].
  """
  labels = labels.astype(jnp.int32)
  known = labels != segmentation.VOID_LABEL
  cell = (labels - 1) * num_classes + predicted - 1
  counts = jnp.zeros(num_classes**2, jnp.int32)
  counts = counts.at[jnp.where(known, cell, 0)].add(known.astype(jnp.int32))
  return counts.reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> dict[str, float]:
  """Numbers from a confusion matrix.

  Args:
    confusion: (N, N), [label, predicted].

  Returns:
    "miou": intersection over union, the mean over the classes that labels show
    (a class that only the network sees counts against those it is taken from);
    "pixel_accuracy"; both in [0, 1].

  Raises:
    ValueError: there is not one labelled pixel.
  """
  confusion = np.asarray(confusion, np.float64)
  if not confusion.sum():
    raise ValueError(
      "the validation pictures have no labels; set train.validate_every=0"
    )
  hits = np.diag(confusion)
  present = confusion.sum(1) > 0
  union = confusion.sum(0) + confusion.sum(1) - hits
  return {
    "miou": float(np.mean(hits[present] / union[present])),
    "pixel_accuracy": float(hits.sum() / confusion.sum()),
  }


class SegmentationValidator:
  """Measures a discriminator on a fixed set of pictures."""

  def __init__(
    self,
    networks: networks_lib.Networks,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
  ):
    """Nothing is compiled before the first call.

    Args:
      networks: with a discriminator.
      batches: this process's share of {"image", "label", "valid"}, as of
        pipeline.make_eval_batches; as many batches on every process.
      mesh: the devices.
    """
    self._batches = batches
    self._mesh = mesh

    def count(variables, batch):
      variables = sharding.gathered(variables, mesh)
      image = objectives.to_float(batch["image"])
      logits, _ = networks.segment(variables, image, None)
      valid = batch["valid"][:, None, None]
      labels = jnp.where(valid, batch["label"], segmentation.VOID_LABEL)
      return confusion_matrix(
        oasis_c.predicted_labels(logits), labels, networks.num_classes
      )

    everywhere = sharding.replicated(mesh)
    self._count = jax.jit(
      count,
      in_shardings=(None, sharding.split_batch(mesh)),
      out_shardings=everywhere,
    )

  def __call__(self, variables: networks_lib.Variables) -> dict[str, float]:
    """{"miou", "pixel_accuracy"} of the variables, see `scores`."""
    total = 0
    for batch in self._batches:
      kept = {name: batch[name] for name in ("image", "label", "valid")}
      counts = self._count(variables, sharding.global_batch(kept, self._mesh))
      total = total + np.asarray(jax.device_get(counts), np.int64)
    return scores(total)
