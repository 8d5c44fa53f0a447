"""LabelMix against the official code, and its mask."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.losses import labelmix

_FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "losses.npz"


def test_equals_the_official_code():
  with np.load(_FIXTURE) as fixture:
    mask, mixed, real, fake = (
      fixture[k].astype(np.float32)
      for k in ("mask", "logits_mixed", "logits_real", "logits_fake")
    )
    expected = fixture["labelmix"]
  ours = labelmix.labelmix(mask, mixed, real, fake)
  assert ours == pytest.approx(float(expected), rel=1e-5)
  # Real and fake exchanged is another loss, unless the mask is turned too.
  assert labelmix.labelmix(mask, mixed, fake, real) != pytest.approx(ours)
  assert labelmix.labelmix(1 - mask, mixed, fake, real) == pytest.approx(ours)


def test_no_loss_for_logits_that_mix():
  key = jax.random.key(0)
  real, fake = jax.random.normal(key, (2, 1, 4, 4, 3))
  mask = labelmix.draw_mask(key, jnp.arange(16).reshape(1, 4, 4), 15)
  assert (
    labelmix.labelmix(mask, labelmix.mix(mask, real, fake), real, fake) == 0
  )


def _masks(labels, num_classes, count=400):
  draw = jax.jit(
    jax.vmap(lambda key: labelmix.draw_mask(key, labels, num_classes))
  )
  return np.asarray(draw(jax.random.split(jax.random.key(1), count)))


def test_one_fair_coin_for_each_class_present():
  labels = np.array([[[0, 3], [3, 5]], [[5, 5], [0, 9]]], np.uint8)
  masks = _masks(labels, 9)
  assert masks.shape == (400, 2, 2, 2, 1) and masks.dtype == np.float32
  assert set(np.unique(masks)) == {0, 1}
  coins = []
  for label in (0, 3, 5, 9):
    own = masks[..., 0][:, labels == label]
    # The same over the whole batch,
    np.testing.assert_array_equal(own, own[:, :1] * np.ones_like(own))
    coins.append(own[:, 0])
  # fair (400 tosses deviate by 0.025), and each its own.
  correlation = np.corrcoef(coins)
  assert np.abs(np.mean(coins, axis=1) - 0.5).max() < 0.12
  assert np.abs(correlation - np.eye(4)).max() < 0.25


def test_largest_class_has_a_coin_of_its_own():
  masks = _masks(np.array([[[8, 9]]], np.uint8), 9)
  assert (masks[..., 0, 0] != masks[..., 1, 0]).any()


def test_mix_takes_one_or_the_other():
  mask = jnp.array([1.0, 0.0]).reshape(1, 1, 2, 1)
  real, fake = jnp.ones((1, 1, 2, 3)), jnp.full((1, 1, 2, 3), jnp.nan)
  mixed = labelmix.mix(mask, real, fake)
  np.testing.assert_array_equal(mixed[0, 0, 0], 1)
  assert np.isnan(mixed[0, 0, 1]).all()
