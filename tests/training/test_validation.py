"""mIoU and pixel accuracy against values worked out by hand."""

import micro_training
import numpy as np
import pytest

from egic_jax.models.discriminators import oasis_c
from egic_jax.training import sharding, validation


def test_scores_by_hand():
  labels = np.array([[0, 1, 1, 2], [2, 2, 2, 0]])
  predicted = np.array([[3, 1, 2, 2], [2, 2, 3, 1]])
  confusion = validation.confusion_matrix(predicted, labels, 3)
  np.testing.assert_array_equal(confusion, [[1, 1, 0], [0, 3, 1], [0, 0, 0]])
  scores = validation.scores(confusion)
  # Class 1: 1 of 2; class 2: 3 of 5; class 3 is not there.
  assert scores["miou"] == pytest.approx((1 / 2 + 3 / 5) / 2)
  assert scores["pixel_accuracy"] == pytest.approx(4 / 6)


def test_no_labels_are_named():
  with pytest.raises(ValueError, match="validate_every=0"):
    validation.scores(np.zeros((3, 3)))


def test_copies_that_fill_a_batch_do_not_count():
  networks = micro_training.micro_networks()
  config = networks.discriminator_config
  variables = {"discriminator": oasis_c.init_params(config, 0)}
  batch = next(micro_training.make_iterator())

  def measure(count):
    taken = {name: np.array(array) for name, array in batch.items()}
    # What follows is not valid, and would change the result.
    taken["image"][count:] = 0
    taken["label"][count:] = 3
    taken["valid"] = np.arange(4) < count
    batches = [taken] if count < 4 else [taken, taken]
    return validator(batches)

  def validator(batches):
    made = validation.SegmentationValidator(
      networks, batches, sharding.make_mesh(1)
    )
    return made(variables)

  one = {name: array[:2] for name, array in batch.items()}
  expected = validator([one | {"valid": np.ones(2, bool)}])
  assert measure(2) == pytest.approx(expected)
  assert measure(4) != pytest.approx(expected)
