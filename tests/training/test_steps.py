"""The training step as a pure function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from micro_training import trees_equal, uint8_batch

from egic_jax.training import optimizer, stages, steps
from egic_jax.training import state as state_lib

_FROZEN_BUT_SYNTHESIS = stages.Stage(
  name="synthesis_only",
  params=("codec",),
  updates=(
    stages.Update(
      optimizer="generator",
      groups=("codec/synthesis",),
      loss="rate_distortion",
    ),
  ),
)


def _make(codec, stage, learning_rate):
  optimizers = {
    "generator": optimizer.make_optimizer(
      kind="adam",
      schedule=lambda count: learning_rate,
      b1=0.9,
      b2=0.999,
      clip_norm=1.0,
    )
  }
  step = steps.make_train_step(
    stage,
    losses={
      "rate_distortion": steps.rate_distortion_loss(
        codec, distortion_weight=0.00234375, rate_weight=1.0
      )
    },
    optimizers=optimizers,
  )
  return jax.jit(step), optimizers


@pytest.fixture(scope="module")
def stage1(codec):
  return _make(codec, stages.get_stage("stage1_mse"), 3e-3)


@pytest.fixture
def state(stage1, params):
  return jax.jit(
    lambda p: state_lib.create(
      p, stage=stages.get_stage("stage1_mse"), optimizers=stage1[1]
    )
  )(params)


@pytest.fixture
def batch():
  return {"image": uint8_batch()}


def test_loss_falls_on_a_fixed_batch(stage1, state, batch):
  step, _ = stage1
  key = jax.random.key(0)
  losses = []
  for _ in range(60):
    state, metrics = step(state, batch, key)
    losses.append(float(metrics["loss"]))
  assert np.all(np.isfinite(losses))
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
  assert int(state.step) == 60


def test_every_parameter_is_updated(stage1, state, batch):
  step, _ = stage1
  new, metrics = step(state, batch, jax.random.key(0))
  assert float(metrics["grad_norm"]) > 0
  still = [
    jax.tree_util.keystr(path)
    for (path, a), b in zip(
      jax.tree_util.tree_leaves_with_path(state.params),
      jax.tree.leaves(new.params),
      strict=True,
    )
    if np.array_equal(a, b)
  ]
  # With one token to a window of h_a and h_s, attention there is constant:
  # queries, keys and the bias table have no gradient.
  assert all("hyper" in name for name in still), still


def test_noise_follows_key_and_step_only(stage1, state, batch):
  step, _ = stage1

  def bpp(number, seed):
    _, metrics = step(
      state.replace(step=jnp.asarray(number, jnp.int32)),
      batch,
      jax.random.key(seed),
    )
    return float(metrics["bpp"])

  assert bpp(3, 0) == bpp(3, 0)
  assert bpp(3, 0) != bpp(4, 0)
  assert bpp(3, 0) != bpp(3, 1)


def test_not_a_bit_of_frozen_parameters_changes(codec, params, batch):
  step, optimizers = _make(codec, _FROZEN_BUT_SYNTHESIS, 1e-2)
  # Adding a zero update would turn -0.0 into 0.0.
  params = jax.tree.map(lambda x: np.where(x == 0, -np.abs(x), x), params)
  before = jax.tree.map(np.array, params)
  state = jax.jit(
    lambda p: state_lib.create(
      p, stage=_FROZEN_BUT_SYNTHESIS, optimizers=optimizers
    )
  )(params)
  for _ in range(2):
    state, _ = step(state, batch, jax.random.key(0))
  for name, tree in before["codec"].items():
    same = trees_equal(tree, state.params["codec"][name])
    assert same == (name != "synthesis"), name
  # And no moments are kept for them.
  assert len(jax.tree.leaves(state.opt_state)) < len(
    jax.tree.leaves(state.params)
  )


def test_reconstruction_is_an_image_with_its_rate(codec, params):
  image = uint8_batch(2)
  x_hat, bpp = jax.jit(steps.make_reconstruct(codec))(params, image)
  assert x_hat.shape == image.shape
  assert x_hat.dtype == jnp.uint8
  assert bpp.shape == (2,)
  assert np.all(np.asarray(bpp) > 0)
