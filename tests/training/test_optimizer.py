"""The learning-rate schedule and the optimiser's options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egic_jax.training import optimizer


def _schedule(**changes):
  arguments = {
    "learning_rate": 1e-2,
    "final_learning_rate": 1e-3,
    "final_fraction": 0.1,
    "warmup_steps": 0,
    "steps": 100,
  }
  return optimizer.make_schedule(**(arguments | changes))


def _optimizer(**changes):
  arguments = {
    "kind": "adam",
    "schedule": lambda count: 1e-2,
    "b1": 0.9,
    "b2": 0.999,
    "clip_norm": 0.0,
  }
  return optimizer.make_optimizer(**(arguments | changes))


def test_last_tenth_has_the_final_rate():
  rates = [float(_schedule()(jnp.asarray(i))) for i in range(100)]
  np.testing.assert_allclose(rates, [1e-2] * 90 + [1e-3] * 10)


def test_warm_up_rises_to_the_rate_and_never_is_zero():
  schedule = jax.jit(_schedule(warmup_steps=4))
  rates = [float(schedule(i)) for i in range(6)]
  np.testing.assert_allclose(
    rates, [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01], rtol=1e-6
  )


def test_the_last_part_may_fall_evenly():
  schedule = _schedule(decay="linear", final_fraction=0.5)
  rates = [float(schedule(jnp.asarray(i))) for i in (0, 49, 50, 75, 100)]
  np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-2, 5.5e-3, 1e-3], rtol=1e-6)


def test_muon_makes_updates_of_kernels_orthogonal():
  rng = np.random.default_rng(0)
  shapes = {"conv/kernel": (3, 3, 2, 8), "dense/kernel": (6, 4), "bias": (8,)}
  params, grads = ({}, {})
  for name, shape in shapes.items():
    path = name.split("/")
    for tree in (params, grads):
      leaf = jnp.asarray(rng.standard_normal(shape), jnp.float32)
      tree[path[0]] = {"kernel": leaf} if len(path) > 1 else leaf
  muon = _optimizer(kind="muon")
  updates, _ = jax.jit(muon.update)(grads, muon.init(params), params)
  for name in ("conv", "dense"):
    matrix = np.reshape(
      updates[name]["kernel"], (-1, shapes[f"{name}/kernel"][-1])
    )
    values = np.linalg.svd(matrix, compute_uv=False)
    # Five Newton-Schulz steps bring singular values near each other; those of
    # a random matrix of these shapes are further apart.
    assert values.max() < 2.0 * values.min()
    plain = np.linalg.svd(
      np.reshape(grads[name]["kernel"], matrix.shape), compute_uv=False
    )
    assert values.max() / values.min() < 0.8 * plain.max() / plain.min()
  # Adam's first step is of one size whatever the gradient.
  assert np.ptp(np.abs(updates["bias"])) < 1e-6


def test_no_final_part():
  schedule = _schedule(final_fraction=0.0)
  assert float(schedule(99)) == pytest.approx(1e-2)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"learning_rate": -1.0}, "learning_rate=-1.0"),
    ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ({"final_fraction": 1.5}, "final_fraction=1.5"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"decay": "cosine"}, "decay=cosine"),
  ],
)
def test_bad_schedule_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    _schedule(**changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"kind": "sgdd"}, "kind=sgdd"),
    ({"b1": 1.0}, "b1=1.0"),
    ({"clip_norm": -1.0}, "clip_norm=-1.0"),
  ],
)
def test_bad_optimizer_is_named(changes, message):
  with pytest.raises(ValueError, match=message):
    _optimizer(**changes)


def test_clipping_bounds_what_the_moments_see():
  params = {"w": jnp.zeros(4)}
  clipped = _optimizer(clip_norm=1.0)
  _, state = clipped.update(
    {"w": jnp.full(4, 100.0)}, clipped.init(params), params
  )
  moment = optax.tree.get(state, "mu")["w"]
  np.testing.assert_allclose(moment, 0.1 * np.full(4, 0.5), rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 100.0])
def test_clipping_is_optax_s(size):
  gradients = {"v": jnp.array([3.0, -4.0]) * size, "w": jnp.ones(1) * size}
  ours, plain = (
    clip.update(gradients, clip.init(gradients))[0]
    for clip in (
      optimizer._clip_by_global_norm(1.0),
      optax.clip_by_global_norm(1.0),
    )
  )
  for name in gradients:
    np.testing.assert_allclose(ours[name], plain[name], rtol=1e-6)


def test_clipping_does_not_change_the_state_structure():
  # So that it can be switched on when a run is continued.
  params = {"w": jnp.zeros(4)}
  assert jax.tree.structure(_optimizer().init(params)) == jax.tree.structure(
    _optimizer(clip_norm=1.0).init(params)
  )


def _tree(rng):
  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  return {
    "a": {"kernel": draw(8, 4), "bias": draw(4)},
    "b": {"kernel": draw(8, 4), "bias": draw(4)},
    "c": {"kernel": draw(3, 3, 4, 8), "scale": draw(8)},
    "d": {"table": draw(8, 4)},
    "e": {"kernel": draw(4)},
  }


def test_muon_of_stacked_kernels_is_muon_of_each():
  def axes(path, value):
    if path[-1].key != "kernel" or value.ndim < 2:
      return None
    *inputs, output = range(value.ndim)
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), (output,))

  each = optax.contrib.muon(
    1e-2,
    muon_weight_dimension_numbers=lambda params: (
      jax.tree_util.tree_map_with_path(axes, params)
    ),
    consistent_rms=0.2,
  )
  ours = _optimizer(kind="muon")
  rng = np.random.default_rng(0)
  params = [_tree(rng)] * 2
  states = [each.init(params[0]), ours.init(params[1])]
  for _ in range(3):
    gradients = _tree(rng)
    for i, made in enumerate((each, ours)):
      updates, states[i] = made.update(gradients, states[i], params[i])
      params[i] = optax.apply_updates(params[i], updates)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), *params
  )


def test_the_norm_in_groups_is_the_norm(monkeypatch):
  gradients = _tree(np.random.default_rng(0))
  for large in (1, 30, 10_000):  # All on their own, some, none.
    monkeypatch.setattr(optimizer, "_LARGE", large)
    np.testing.assert_allclose(
      optimizer.global_norm(gradients), optax.tree.norm(gradients), rtol=1e-6
    )
