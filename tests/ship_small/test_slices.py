"""Slices of a training, one after the other."""

import dataclasses
import shutil
import time

import blend
import curves_file
import export
import jax.numpy as jnp
import numpy as np
import plan
import programs
import pytest
import saved
import slices

from egic_jax.bitstream import model_file
from egic_jax.training import errors

# Not as fast, but for a few small updates compiling is what takes time.
_SOON_COMPILED = {"xla_backend_optimization_level": 0}
LENGTH = plan.Length(6, counts_updates=True)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
  """Slices share what they compile: the program of a stage is always the same."""
  programs_of, compile_ = {}, programs.StageProgram.compile

  def shared(self, state, key):
    name = self.stage.name
    if name in programs_of:
      self._compiled = programs_of[name]
      return 0.0
    seconds = compile_(self, state, key)
    programs_of[name] = self._compiled
    return seconds

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(programs.StageProgram, "compile", shared)
    patch.setitem(programs.runtime.COMPILER_OPTIONS, "cpu", _SOON_COMPILED)
    yield


@pytest.fixture(scope="module")
def make(settings, pack):
  def make(out, *, max_updates=None, start_from=None, lines=None, **changes):
    return slices.Slice(
      dataclasses.replace(settings, **changes.pop("settings", {})),
      size="micro",
      packs=[pack],
      out=out,
      start_from=start_from,
      length=changes.pop("length", LENGTH),
      seconds=changes.pop("seconds", 1000),
      started=time.monotonic(),
      max_updates=max_updates,
      report=(lines if lines is not None else []).append,
    )

  return make


@pytest.fixture(scope="module")
def first_update_of_stage_2(make, tmp_path_factory):
  """A save within stage 2."""
  run = tmp_path_factory.mktemp("run")
  assert not make(run, max_updates=1).run()
  return saved.newest(run)


def test_a_slice_leaves_all_that_the_next_one_needs(first_update_of_stage_2):
  params, others, position = saved.load(first_update_of_stage_2)
  assert (position["stage"], position["update"]) == ("stage2_gan", 1)
  assert (position["updates"], position["images"]) == (1, 2)
  groups = {tuple(name.split("/")[:2]) for name in params}
  assert groups == {("now", "codec"), ("now", "discriminator")}
  assert any(name.startswith("ema/codec/synthesis") for name in others)
  text = (first_update_of_stage_2 / slices.CURVES).read_text()
  assert text.splitlines()[0] == "seconds,slice,stage,update,name,value"


def test_a_stopped_training_ends_like_one_that_was_not(
  make, first_update_of_stage_2, tmp_path
):
  """Through the rest of stage 2 and all of stage 3, and into a model file."""
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  assert make(whole, start_from=first_update_of_stage_2).run()
  shutil.copytree(first_update_of_stage_2.parent, cut)
  assert not make(cut, max_updates=1).run()
  assert make(cut).run()
  text = (saved.newest(cut) / slices.CURVES).read_text()
  rows = curves_file.Curves(text).rows
  assert {row[1:3] for row in rows} >= {(3, "stage2_gan"), (3, "stage3_orp")}
  seconds = [row[0] for row in rows]
  assert seconds == sorted(seconds) and seconds[0] > 0
  found = [saved.load(saved.newest(run)) for run in (whole, cut)]
  first, second = (params for params, _, _ in found)
  assert first.keys() == second.keys()
  assert {name.split("/")[1] for name in first} == {
    "codec",
    "discriminator",
    "orp",
  }
  for name, array in first.items():
    assert array.tobytes() == second[name].tobytes(), name
  before, _, _ = saved.load(first_update_of_stage_2)
  moved = {
    name.split("/")[2]
    for name, array in before.items()
    if name.startswith("now/codec")
    and array.tobytes() != first[f"kept{name[3:]}"].tobytes()
  }
  assert moved == {"synthesis"}
  line = export.export(cut, tmp_path / "model", half=False, hardware="none")
  assert "codec, orp" in line
  model = model_file.load_model(tmp_path / "model")
  assert model.metadata["stage"] == "all"
  _blend(first_update_of_stage_2, cut, tmp_path)
  lines = []
  assert make(cut, lines=lines).run()
  assert "all stages are done: 6 updates" in lines[-1]


def test_a_slice_that_is_too_short_trains_nothing_and_is_saved(make, tmp_path):
  assert not make(tmp_path, seconds=0.0).run()
  params, _, position = saved.load(saved.newest(tmp_path))
  assert position["updates"] == 0
  assert {name.split("/")[1] for name in params} == {"codec", "discriminator"}


def test_a_loss_that_is_not_finite_leaves_the_last_save(
  make, first_update_of_stage_2, tmp_path
):
  run = tmp_path / "run"
  shutil.copytree(first_update_of_stage_2.parent, run)
  lines = []
  slice_ = make(run, lines=lines)
  params = slice_._state.params
  params["codec"]["synthesis"] = {
    name: _spoiled(x) for name, x in params["codec"]["synthesis"].items()
  }
  # It goes back, and then to the end.
  assert slice_.run()
  assert any("other squares" in line for line in lines)
  assert saved.load(saved.newest(run))[2]["retries"] == 1
  slice_._position["retries"] = 3
  with pytest.raises(errors.TrainingError, match="is untouched"):
    slice_._retry({"loss": np.nan})


def _spoiled(tree):
  if isinstance(tree, dict):
    return {name: _spoiled(x) for name, x in tree.items()}
  return tree * jnp.nan


def test_parameters_alone_are_enough_to_go_on(
  make, first_update_of_stage_2, tmp_path
):
  export.lean(first_update_of_stage_2, tmp_path / "lean")
  lines = []
  slice_ = make(tmp_path / "a", start_from=tmp_path / "lean", lines=lines)
  assert any("start anew" in line for line in lines)
  before, _, _ = saved.load(first_update_of_stage_2)
  for name, array in saved.name_leaves(slice_._state.params).items():
    np.testing.assert_array_equal(array, before[f"now/{name}"])
  inner, _ = slice_._state.opt_state["generator"]
  assert all(not np.any(x) for x in saved.name_leaves(inner).values())
  assert int(slice_._state.step) == 1


def test_what_does_not_fit_is_told(make, first_update_of_stage_2, tmp_path):
  with pytest.raises(ValueError, match="holds no save"):
    make(tmp_path / "a", start_from=tmp_path / "b")
  head = first_update_of_stage_2 / saved.STATE
  other = tmp_path / "other"
  shutil.copytree(first_update_of_stage_2, other)
  (other / saved.STATE).write_text(head.read_text().replace('"micro"', '"big"'))
  with pytest.raises(ValueError, match="--size=big, not micro"):
    make(tmp_path / "a", start_from=other)


def _blend(first, last, tmp_path):
  """Between the first update of stage 2 and its end; stage 3 comes again."""
  blend.blend(first.parent, last, tmp_path / "between", 0.25)
  params, others, position = saved.load(saved.newest(tmp_path / "between"))
  assert (position["stage"], position["update"], others) == (
    "stage3_orp",
    0,
    {},
  )
  before, after = (saved.load(saved.newest(f))[0] for f in (first.parent, last))
  moved = 0
  for name, array in params.items():
    ends = before[f"now{name[4:]}"], after[name]
    if name.startswith("kept/codec/synthesis/"):
      moved += not np.array_equal(*ends)
      expected = 0.75 * ends[0] + 0.25 * ends[1]
      np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)
    else:
      assert np.array_equal(array, ends[1]), name
  assert moved
  with pytest.raises(ValueError, match="holds no save"):
    blend.blend(tmp_path / "nothing", last, tmp_path / "other", 0.5)
