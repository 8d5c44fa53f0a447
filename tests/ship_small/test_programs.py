"""Programs of many updates."""

import dataclasses

import jax
import numpy as np
import programs
import pytest
import slices

from egic_jax.training import initial, sharding

_STAGE = "stage3_orp"
_PLACES = {"origin": 0.25, "slope": 0.125}


@pytest.fixture(scope="module")
def make(settings, pack):
  """A program, and a state that may be given up."""
  classes, atlas, _, _ = slices.load_atlases([pack], lambda line: None)
  networks = programs.make_networks(settings, len(classes) - 1)
  mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])

  def make(kept=None, **changes):
    program = programs.StageProgram(
      _STAGE, dataclasses.replace(settings, **changes), networks, atlas, kept
    )
    params = initial.complete(
      initial.Start(), program.stage, networks, seed=0, batch={}, mesh=mesh
    )
    state = program.create(jax.device_get(params), 0)
    return program, jax.device_put(jax.device_get(state)), atlas

  return make


def test_updates_in_a_loop_are_those_made_one_by_one(make, monkeypatch):
  key = jax.random.key(0)
  found = {}
  for loops in (False, True):
    program, state, _ = make()
    monkeypatch.setattr(program, "_loops", loops)
    program.compile(state, key)
    start = jax.device_get(state.params["orp"])
    state, means = program(state, key, count=3, **_PLACES)
    assert int(state.step) == 3
    found[loops] = jax.device_get(state.params["orp"]), means
    moved = jax.tree.map(
      lambda a, b: not np.array_equal(a, b), start, found[loops][0]
    )
    assert any(jax.tree.leaves(moved))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    found[False][0],
    found[True][0],
  )
  assert found[False][1].keys() == found[True][1].keys()
  for name, mean in found[False][1].items():
    assert mean == pytest.approx(found[True][1][name], rel=1e-4), name


def test_a_program_compiled_beforehand_is_loaded(make, tmp_path, monkeypatch):
  key = jax.random.key(0)
  program, state, atlas = make(tmp_path)
  path = program.keep(program.lower(program.state_shapes(), atlas, key))
  program.compile(state, key)
  expected, _ = program(state, key, count=1, **_PLACES)

  def not_here(*args, **kwargs):
    raise AssertionError("compiled again")

  monkeypatch.setattr(programs.StageProgram, "lower", not_here)
  other, state, _ = make(tmp_path)
  other.compile(state, key)
  found, _ = other(state, key, count=1, **_PLACES)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert np.array_equal(a, b)
  assert list(tmp_path.iterdir()) == [path]
  # Not for other settings.
  different, state, _ = make(tmp_path, crop_size=32)
  with pytest.raises(AssertionError, match="compiled again"):
    different.compile(state, key)
