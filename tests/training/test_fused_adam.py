"""Adam by kernels, interpreted, against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import gpu_kernel
from egic_jax.training import optimizer, stages, steps
from egic_jax.training import state as state_lib


def _make(fused, clip_norm, kind="adam"):
  return optimizer.make_optimizer(
    kind=kind,
    schedule=lambda count: 1e-2 / (count + 1),
    b1=0.8,
    b2=0.95,
    clip_norm=clip_norm,
    kernels=gpu_kernel.ONE_DEVICE if fused else None,
  )


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e3])
def test_is_optax_adam(clip_norm, float64, monkeypatch):
  rng = np.random.default_rng(0)
  shapes = {"a": {"kernel": (40, 70), "bias": (70,)}, "b": (5, 3, 3)}

  def draw():
    return jax.tree.map(
      lambda shape: jnp.asarray(rng.standard_normal(shape)),
      shapes,
      is_leaf=lambda x: isinstance(x, tuple),
    )

  plain = _make(False, clip_norm)
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  fused = _make(True, clip_norm)
  assert isinstance(fused, optimizer.FusedAdam)
  params = draw()
  states = plain.init(params), fused.init(params)
  assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
  ours = expected = params
  for _ in range(3):
    gradients = draw()
    expected, plain_state, plain_norm = optimizer.apply(
      plain, gradients, states[0], expected
    )
    ours, fused_state, norm = fused.apply(
      gradients, states[1], ours, interpret=True
    )
    states = plain_state, fused_state
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14),
      (ours, states[1], norm),
      (expected, states[0], plain_norm),
    )


def test_is_for_adam_on_devices_that_have_kernels(monkeypatch):
  assert not isinstance(_make(True, 1.0), optimizer.FusedAdam)  # A CPU.
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  assert isinstance(_make(True, 1.0), optimizer.FusedAdam)
  assert not isinstance(_make(False, 1.0), optimizer.FusedAdam)
  assert not isinstance(_make(True, 1.0, "muon"), optimizer.FusedAdam)


def test_training_steps_apply_it(monkeypatch):
  plain = _make(False, 1.0)
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  fused = _make(True, 1.0)
  applied = []

  def apply(*args):
    applied.append(args)
    return apply_by_kernels(*args, interpret=True)

  apply_by_kernels = fused.apply
  fused = fused._replace(apply=apply)
  stage = stages.get_stage("stage1_mse")
  params = {"codec": {"kernel": jnp.ones((30, 50)), "bias": jnp.arange(50.0)}}

  def loss(variables, batch, key):
    codec = variables["codec"]
    out = batch["image"] @ codec["kernel"] + codec["bias"]
    value = jnp.mean(out**2)
    return value, ({"loss": value}, variables["spectral"])

  found = []
  for each in (plain, fused):
    optimizers = {"generator": each}
    step = steps.make_train_step(
      stage, losses={"rate_distortion": loss}, optimizers=optimizers
    )
    state = state_lib.create(params, stage=stage, optimizers=optimizers)
    batch = {"image": jnp.linspace(-1, 1, 120).reshape(4, 30)}
    for _ in range(2):
      state, metrics = step(state, batch, jax.random.key(0), {})
    found.append((state, metrics))
  assert len(applied) == 2
  assert found[0][1].keys() == found[1][1].keys() >= {"loss", "grad_norm"}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    *found,
  )
  moved = jax.tree.map(lambda a, b: a - b, found[1][0].params, params)
  assert all(bool((x != 0).any()) for x in jax.tree.leaves(moved))
