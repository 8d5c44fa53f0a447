"""Losses of the segmentation against the official code and by hand."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.losses import segmentation

_FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "losses.npz"


@pytest.fixture(scope="module")
def fixture():
  with np.load(_FIXTURE) as archive:
    return dict(archive)


def test_real_equals_the_official_code(fixture):
  """With void pixels, weights 1 and 3, and an image of void alone."""
  for logits, expected in (
    ("logits_real", "ce_real"),
    ("logits_fake", "ce_fake_as_real"),
  ):
    ours = segmentation.cross_entropy(
      fixture[logits], fixture["labels"], fixture["weights"]
    )
    np.testing.assert_allclose(ours, fixture[expected], rtol=1e-5)
  assert not fixture["labels"][2].any() and ours[2] == 0


def test_fake_equals_the_official_code(fixture):
  ours = segmentation.fake_cross_entropy(fixture["logits_fake"])
  np.testing.assert_allclose(ours, fixture["ce_fake_as_fake"], rtol=1e-5)


def test_by_hand():
  # Probabilities 1/4, 1/4, 1/2 of void, class 1 and fake; N = 1.
  logits = jnp.log(jnp.array([1.0, 1.0, 2.0])) * jnp.ones((1, 2, 2, 1))
  labels = jnp.array([[[0, 1], [1, 2]]], jnp.uint8)
  weights = jnp.array([[[5.0, 3.0], [1.0, 1.0]]])
  ours = segmentation.cross_entropy(logits, labels, weights)
  expected = (3 * np.log(4) + np.log(4) + np.log(2)) / 3
  np.testing.assert_allclose(ours, [expected], rtol=1e-6)
  np.testing.assert_allclose(
    segmentation.fake_cross_entropy(logits), [np.log(2)], rtol=1e-6
  )


def test_real_and_fake_pull_apart(fixture):
  """A discriminator sure of "real" pays little for real, much for fake."""
  labels = np.maximum(fixture["labels"], 1)
  sure = 20.0 * np.eye(11, dtype=np.float32)[labels]
  assert segmentation.cross_entropy(sure, labels).max() < 1e-6
  assert segmentation.fake_cross_entropy(sure).min() > 19


def test_extremes_have_finite_gradients():
  logits = jnp.array([1e5, -1e5, 1e5, 0.0]) * jnp.ones((1, 2, 2, 1))
  labels = jnp.array([[[0, 1], [2, 3]]])
  value, gradient = jax.value_and_grad(
    lambda x: segmentation.cross_entropy(x, labels).sum()
  )(logits)
  assert np.isfinite(value) and np.isfinite(gradient).all()
  assert not gradient[0, 0, 0].any()  # Void.
  nothing = jax.grad(lambda x: segmentation.cross_entropy(x, 0 * labels).sum())(
    logits
  )
  assert not nothing.any()


def test_bfloat16_logits_are_computed_in_float32(fixture):
  logits = jnp.asarray(fixture["logits_real"], jnp.bfloat16)
  ours = segmentation.cross_entropy(logits, fixture["labels"])
  assert ours.dtype == jnp.float32
  same = segmentation.cross_entropy(
    logits.astype(jnp.float32), fixture["labels"]
  )
  np.testing.assert_array_equal(ours, same)


def test_balanced_classes_count_the_same():
  labels = jnp.array([[[0, 1, 1], [1, 1, 4]]], jnp.uint8)
  weights = segmentation.class_balanced_weights(labels, 5)
  expected = [[[0, 6 / 8, 6 / 8], [6 / 8, 6 / 8, 6 / 2]]]
  np.testing.assert_allclose(weights, expected, rtol=1e-6)
  assert not segmentation.class_balanced_weights(0 * labels, 5).any()


def test_balance_is_that_of_the_whole_batch():
  labels = jnp.array([[[1, 1]], [[1, 2]]])
  weights = segmentation.class_balanced_weights(labels, 2)
  np.testing.assert_allclose(
    weights, [[[2 / 3, 2 / 3]], [[2 / 3, 2]]], rtol=1e-6
  )
