"""The training step as a pure function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import micro_training
import numpy as np
import optax
import pytest
from micro_training import micro_networks, trees_equal, uint8_batch

from egic_jax.losses import perceptual
from egic_jax.training import (
  initial,
  objectives,
  optimizer,
  sharding,
  stages,
  steps,
)
from egic_jax.training import state as state_lib

_ONLY_SYNTHESIS = stages.Stage(
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


def _optimizer(learning_rate):
  return optimizer.make_optimizer(
    kind="adam",
    schedule=lambda count: learning_rate,
    b1=0.9,
    b2=0.999,
    clip_norm=1.0,
  )


def _make(stage, learning_rate):
  networks = micro_networks()
  optimizers = {"generator": _optimizer(learning_rate)}
  step = jax.jit(
    steps.make_train_step(
      stage,
      losses=objectives.make_losses(networks, objectives.LossWeights()),
      optimizers=optimizers,
    )
  )
  return lambda *arguments: step(*arguments, {}), optimizers


@pytest.fixture(scope="module")
def stage1():
  return _make(stages.get_stage("stage1_mse"), 3e-3)


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


def test_not_a_bit_of_frozen_parameters_changes(params, batch):
  step, optimizers = _make(_ONLY_SYNTHESIS, 1e-2)
  # Adding a zero update would turn -0.0 into 0.0.
  params = jax.tree.map(lambda x: np.where(x == 0, -np.abs(x), x), params)
  before = jax.tree.map(np.array, params)
  state = jax.jit(
    lambda p: state_lib.create(p, stage=_ONLY_SYNTHESIS, optimizers=optimizers)
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


# A training step of two players whose losses can be worked out by hand.
_PLAYERS = stages.Stage(
  name="players",
  params=("codec", "discriminator"),
  updates=(
    stages.Update("discriminator", ("discriminator",), "d", portion=0),
    stages.Update(
      "generator", ("codec/synthesis",), "g", portion=1, averaged=True
    ),
  ),
)


def _d_loss(variables, batch, key):
  w = variables["discriminator"]["w"]
  loss = jnp.mean(jnp.square(batch["image"] - w)) * variables["constant"]
  spectral = {"u": variables["spectral"]["u"] + 1}
  return loss, ({"d_seen": jnp.sum(batch["image"])}, spectral)


def _g_loss(variables, batch, key):
  w = variables["codec"]["synthesis"]["w"]
  loss = jnp.mean(jnp.square(batch["image"] - w))
  scalars = {"g_seen": jnp.sum(batch["image"])}
  scalars["d_then"] = variables["discriminator"]["w"]
  return loss, (scalars, variables["spectral"])


def _play(count, *, accumulate=1, ema_decay=0.0):
  optimizers = {
    name: optax.sgd(0.25) for name in ("discriminator", "generator")
  }
  params = {
    "codec": {
      "synthesis": {"w": jnp.zeros(())},
      "analysis": {"w": -jnp.zeros(())},
    },
    "discriminator": {"w": jnp.ones(())},
  }
  state = state_lib.create(
    params,
    {"u": jnp.zeros(())},
    stage=_PLAYERS,
    optimizers=optimizers,
    ema_decay=ema_decay,
  )
  step = jax.jit(
    steps.make_train_step(
      _PLAYERS,
      losses={"d": _d_loss, "g": _g_loss},
      optimizers=optimizers,
      accumulate=accumulate,
      ema_decay=ema_decay,
    )
  )
  states = []
  for i in range(count):
    batch = {"image": jnp.arange(8.0) + i}
    state, metrics = step(state, batch, jax.random.key(0), {"constant": 2.0})
    states.append((state, metrics))
  return states


def test_players_see_halves_and_take_turns():
  ((state, metrics),) = _play(1)
  # 0 2 4 6 and 1 3 5 7.
  assert float(metrics["d_seen"]) == 12
  assert float(metrics["g_seen"]) == 16
  # w - 0.25 * 2 * 2 (w - mean): the second player meets the updated first.
  assert float(state.params["discriminator"]["w"]) == pytest.approx(3.0)
  assert float(metrics["d_then"]) == pytest.approx(3.0)
  assert float(state.params["codec"]["synthesis"]["w"]) == pytest.approx(2.0)
  # Moved on by the first player's pass only.
  assert float(state.spectral["u"]) == 1
  assert metrics.keys() >= {"generator_grad_norm", "discriminator_grad_norm"}


def test_accumulation_gives_the_whole_batchs_gradient():
  whole, parts = _play(3), _play(3, accumulate=2)
  for (a, b), (c, d) in zip(whole, parts, strict=True):
    for x, y in zip(
      jax.tree.leaves(a.params), jax.tree.leaves(c.params), strict=True
    ):
      np.testing.assert_allclose(x, y, rtol=1e-6)
    # Scalars are means of the parts', here of sums over halves.
    np.testing.assert_allclose(b["d_seen"], 2 * d["d_seen"], rtol=1e-6)
  assert float(parts[0][0].spectral["u"]) == 2


def test_the_average_follows_what_the_generator_trains():
  states = _play(4, ema_decay=0.75)
  mean = 0.0
  for state, _ in states:
    mean = 0.75 * mean + 0.25 * float(state.params["codec"]["synthesis"]["w"])
    assert state.ema.keys() == {"codec"}
    assert state.ema["codec"].keys() == {"synthesis"}
    assert float(state.ema["codec"]["synthesis"]["w"]) == pytest.approx(mean)
  variables = states[-1][0].variables
  assert float(variables["codec"]["synthesis"]["w"]) == pytest.approx(mean)
  assert float(variables["discriminator"]["w"]) == float(
    states[-1][0].params["discriminator"]["w"]
  )
  assert not _play(1)[0][0].ema


@pytest.mark.parametrize("name", stages.stage_names())
def test_every_stage_computes_in_bfloat16_and_keeps_float32(name):
  networks = dataclasses.replace(micro_networks(), dtype=jnp.bfloat16)
  stage = stages.get_stage(name)
  weights = objectives.LossWeights(lpips=0.0 if stage.lpips == "none" else 1.0)
  optimizers = {u.optimizer: _optimizer(1e-3) for u in stage.updates}
  create = functools.partial(
    state_lib.create,
    stage=stage,
    optimizers=optimizers,
    ema_decay=0.9 if stage.averaged_groups else 0.0,
  )
  step = steps.make_train_step(
    stage,
    losses=objectives.make_losses(networks, weights),
    optimizers=optimizers,
    accumulate=2,
    ema_decay=0.9 if stage.averaged_groups else 0.0,
  )
  before = jax.eval_shape(create, networks.param_shapes(stage.params))
  image = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.uint8)
  pixels = jax.ShapeDtypeStruct((4, 64, 64), jnp.uint8)
  batch = {"image": image, "label": pixels, "weight": pixels}
  lpips = {"lpips": perceptual.param_shapes("alex")} if weights.lpips else {}
  after, metrics = jax.eval_shape(
    step,
    before,
    {entry: batch[entry] for entry in stage.inputs},
    jax.random.key(0),
    lpips,
  )
  same = jax.tree.map(
    lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), before, after
  )
  assert all(jax.tree.leaves(same))
  assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(before.params))
  assert ("lpips" in metrics) == (stage.lpips != "none")
  assert all(metric.dtype == jnp.float32 for metric in metrics.values())


# The codec and the discriminator; the other stages are made of the same parts.
@pytest.mark.parametrize("name", ["stage0_discriminator", "stage1_mse"])
def test_a_step_in_bfloat16_in_parts_and_clipped(name):
  stage = stages.get_stage(name)
  (update,) = stage.updates
  networks = dataclasses.replace(micro_networks(), dtype=jnp.bfloat16)
  optimizers = {update.optimizer: _optimizer(1e-3)}
  batch = next(micro_training.make_iterator())
  batch = {entry: batch[entry] for entry in stage.inputs}
  mesh = sharding.make_mesh(1)
  params = initial.complete(
    initial.Start(),
    stage,
    micro_networks(),
    seed=0,
    batch=sharding.global_batch(batch, mesh),
    mesh=mesh,
  )
  before = state_lib.create(params, stage=stage, optimizers=optimizers)
  step = steps.make_train_step(
    stage,
    losses=objectives.make_losses(networks, objectives.LossWeights(rate=100.0)),
    optimizers=optimizers,
    accumulate=2,
  )
  after, metrics = jax.jit(step)(before, batch, jax.random.key(0), {})
  for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    assert a.dtype == b.dtype and b.dtype in (jnp.float32, jnp.int32)
    assert np.isfinite(b).all()
  assert all(np.isfinite(metric) for metric in metrics.values())
  assert not trees_equal(before.params, after.params)
  # Adam's first moment after one step is a tenth of the gradient it saw.
  seen = optax.tree.get(after.opt_state[update.optimizer], "mu")
  norm = 10 * float(optax.tree.norm(seen))
  assert norm == pytest.approx(min(float(metrics["grad_norm"]), 1.0), rel=1e-3)
