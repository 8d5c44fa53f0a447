"""Whole runs of a few steps: resuming, aborting, stopping, reporting."""

import os
import signal

import jax
import micro_training
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from egic_jax import allocator, images
from egic_jax.models import presets
from egic_jax.training import checkpoints, errors, initial, loop, manifest
from egic_jax.training import stages as stages_lib
from egic_jax.training import workdir as workdir_lib

_CONFIG = {
  "model": {
    "preset": "micro",
    "codec": presets.config_to_dict(micro_training.micro_config()),
  },
  "data": {"name": "waves", "seed": 0},
  "train": {"steps": 4, "stage": "stage1_mse"},
}


@pytest.fixture(scope="module")
def programs():
  return {}


@pytest.fixture
def train(tmp_path, monkeypatch, programs):
  """Runs the loop in a named work directory; returns (outcome, lines).

  A step that was compiled in this module is not compiled again; a test in
  test_resume.py starts processes that compile their own.
  """
  compile_step = loop._compile

  def train_(name, *, stage="stage1_mse", networks=None, weights=(), **changes):
    arguments = micro_training.run_arguments(stage, networks, **dict(weights))
    lines = []
    arguments |= {"report": lines.append} | changes
    key = (arguments["stage"], networks, weights)

    def compile_once(*arguments):
      if key not in programs:
        programs[key] = train_.compile_step(*arguments)
      return programs[key]

    monkeypatch.setattr(loop, "_compile", compile_once)
    workdir = tmp_path / name
    workdir_lib.claim(workdir, _CONFIG, report=print)
    return loop.run(workdir, **arguments), lines

  train_.workdir = tmp_path
  train_.compile_step = compile_step
  return train_


def _params(workdir):
  _, params, step = checkpoints.load_parameters(workdir)
  return params, step


def test_two_and_two_steps_equal_four_bit_for_bit(train):
  outcome, lines = train("at_once", num_steps=4)
  assert (outcome.step, outcome.interrupted) == (4, False)
  assert outcome.metrics["loss"] > 0
  assert sum("steps/s" in line for line in lines) == 2

  train("in_parts", num_steps=2)
  outcome, lines = train("in_parts", num_steps=4)
  assert any("continuing after step 2" in line for line in lines)
  expected, step = _params(train.workdir / "at_once")
  found, _ = _params(train.workdir / "in_parts")
  assert step == 4
  assert micro_training.trees_equal(expected, found)
  # The seed matters, or the comparison would prove nothing.
  train("other", num_steps=4, seed=1)
  other, _ = _params(train.workdir / "other")
  assert not micro_training.trees_equal(expected, other)

  outcome, lines = train("at_once", num_steps=4)
  assert outcome.metrics == {}
  assert any("nothing to do" in line for line in lines)


def test_on_a_cpu_no_two_steps_hold_memory(train, programs, monkeypatch):
  train("first", num_steps=1)
  ((key, compiled),) = [
    item for item in programs.items() if item[0][1:] == (None, ())
  ]
  ready = []

  def checked(state, *rest):
    ready.append(all(x.is_ready() for x in jax.tree.leaves(state)))
    return compiled(state, *rest)

  monkeypatch.setitem(programs, key, checked)
  # Nothing else that waits comes between.
  train("next", num_steps=4, log_every=4, checkpoint_every=4)
  assert ready == [True] * 4


class _Heap:
  """Notes what it is told, with what else happens."""

  def __init__(self, events):
    self.release = lambda: events.append("release")
    self.set_aside = lambda: events.append("set aside")
    self.leave_cushion = lambda: events.append("cushion")


def test_crumbs_of_the_step_are_set_aside(train, programs, monkeypatch):
  train("before", num_steps=1)
  ((key, compiled),) = [
    item for item in programs.items() if item[0][1:] == (None, ())
  ]
  events = []
  monkeypatch.setattr(allocator, "_heap", _Heap(events))

  def compile_step(*arguments):
    with allocator.compiling():
      events.append("compiles")
    return lambda *rest: events.append("step") or compiled(*rest)

  # The fixture's stand-in for loop._compile, which is tested below.
  monkeypatch.delitem(programs, key)
  monkeypatch.setattr(train, "compile_step", compile_step)
  train("run", num_steps=2)
  assert " ".join(events) == "release compiles cushion set aside step step"


def test_the_step_is_compiled_as_such(monkeypatch):
  events = []
  monkeypatch.setattr(allocator, "_heap", _Heap(events))

  def step(state, batch, key, constants):
    events.append("traced")
    return state + batch + key + constants

  monkeypatch.setattr(
    loop.sharding, "jit_step", lambda step_fn, state, mesh: jax.jit(step_fn)
  )
  mesh = micro_training.run_arguments()["mesh"]
  compiled = loop._compile(step, 1.0, 2.0, 3.0, 4.0, mesh)
  assert events == ["release", "traced", "cushion"]
  assert compiled(1.0, 2.0, 3.0, 4.0) == 10


def test_crumbs_of_panels_and_validation_are_set_aside(train, monkeypatch):
  events = []
  monkeypatch.setattr(allocator, "_heap", _Heap(events))

  def validator(variables):
    events.append("validates")
    return {"psnr": 20.0}

  train("plain", num_steps=2)
  events.clear()
  train("run", num_steps=2, validator=validator, validate_every=1)
  assert " ".join(events) == ("release validates cushion set aside validates")
  events.clear()
  samples = {"image": micro_training.uint8_batch(3)}
  train("panels", num_steps=2, samples=samples, sample_every=1)
  assert events == ["release", "cushion", "set aside"]


def test_not_finite_aborts_and_keeps_the_last_good_checkpoint(train):
  train("run", num_steps=2)
  before, _ = _params(train.workdir / "run")
  with pytest.raises(errors.TrainingError) as caught:
    # The interval of the log straddles the checkpoint.
    train(
      "run",
      num_steps=6,
      weights=(("distortion", float("inf")),),
      log_every=5,
      checkpoint_every=1,
    )
  message = str(caught.value)
  assert "loss" in message
  assert "up to 3" in message
  assert "checkpoint of step 2 is untouched" in message
  assert "learning_rate" in message
  assert "\n" not in message
  after, step = _params(train.workdir / "run")
  assert step == 2
  assert micro_training.trees_equal(before, after)


def test_sigterm_saves_and_the_next_run_ends_the_same(train):
  train("whole", num_steps=5, log_every=1)

  lines = []

  def report(line):
    lines.append(line)
    if line.startswith("step 1/"):
      os.kill(os.getpid(), signal.SIGTERM)

  handler = signal.getsignal(signal.SIGTERM)
  outcome, _ = train(
    "stopped", num_steps=5, log_every=1, checkpoint_every=100, report=report
  )
  assert outcome.interrupted
  assert outcome.step == 2
  assert any("SIGTERM" in line for line in lines)
  assert any("interrupted: saved step 2 of 5" in line for line in lines)
  assert signal.getsignal(signal.SIGTERM) is handler

  train("stopped", num_steps=5, log_every=1)
  expected, _ = _params(train.workdir / "whole")
  found, _ = _params(train.workdir / "stopped")
  assert micro_training.trees_equal(expected, found)


def test_samples_and_scalars_are_written(train):
  samples = micro_training.uint8_batch(3)
  outcome, lines = train(
    "run", num_steps=2, samples={"image": samples}, log_every=1
  )
  run = train.workdir / "run"
  panel = images.read(run / "samples" / "step_00000002.png")
  assert panel.shape[1] == 2 * 64 + 2
  assert any(line.startswith("samples:") for line in lines)
  scalars = micro_training.read_scalars(run / "tensorboard")
  assert scalars["loss", 2] == pytest.approx(outcome.metrics["loss"])
  assert scalars["learning_rate", 1] == pytest.approx(1e-3)
  for name in ("bpp", "psnr", "grad_norm", "steps_per_second", "sample_psnr"):
    assert (name, 2) in scalars, name
  assert any("parameters" in line for line in lines)
  assert any("compil" in line for line in lines)


def test_starting_from_given_parameters(train, params):
  only_synthesis = stages_lib.Stage(
    name="synthesis_only",
    params=("codec",),
    updates=(
      stages_lib.Update(
        optimizer="generator",
        groups=("codec/synthesis",),
        loss="rate_distortion",
      ),
    ),
  )
  start = initial.Start(params)
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(stages_lib._STAGES, "synthesis_only", only_synthesis)
    train("run", num_steps=1, stage="synthesis_only", start=start)
  found, _ = _params(train.workdir / "run")
  for name, tree in params["codec"].items():
    same = micro_training.trees_equal(tree, found["codec"][name])
    assert same == (name != "synthesis"), name


def _manifest(workdir, step):
  """Digests of every array, and of the data iterator's position."""
  directory = workdir / "checkpoints" / str(step) / "manifest"
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    return reader.restore(directory)


def test_the_adversarial_stage_resumes_bit_for_bit(train):
  networks = micro_training.micro_networks(normalization="spectral")
  changes = {
    "stage": "stage2_gan",
    "networks": networks,
    "ema_decay": 0.9,
    "schedules": {"generator": lambda _: 1e-3, "discriminator": lambda _: 4e-3},
  }
  train("at_once", num_steps=4, **changes)
  train("in_parts", num_steps=2, **changes)
  _, lines = train("in_parts", num_steps=4, **changes)
  assert any("continuing after step 2" in line for line in lines)
  expected = _manifest(train.workdir / "at_once", 4)
  assert _manifest(train.workdir / "in_parts", 4) == expected
  for part in (
    "params/discriminator/",
    "opt_state/discriminator/",
    "opt_state/generator/",
    "ema/codec/synthesis/",
    "spectral/discriminator/",
  ):
    changed = [
      name
      for name, digest in expected["sha256"].items()
      if name.startswith(part)
      and digest != _manifest(train.workdir / "in_parts", 2)["sha256"][name]
    ]
    assert changed, part
  before = _manifest(train.workdir / "at_once", 2)
  assert expected["iterator"] != before["iterator"]

  # What is loaded is the average, and of the codec alone.
  found, _ = _params(train.workdir / "at_once")
  assert found.keys() == {"codec"}
  last = found["codec"]["synthesis"]["stage_3"]
  flat = traverse_util.flatten_dict(last, sep="/")
  for name, array in flat.items():
    here = f"codec/synthesis/stage_3/{name}"
    assert manifest.digest(array) == expected["sha256"][f"ema/{here}"]
    assert manifest.digest(array) != expected["sha256"][f"params/{here}"]

  scalars = micro_training.read_scalars(
    train.workdir / "at_once" / "tensorboard"
  )
  for name in (
    *("loss", "mse_255", "bpp", "y_bpp", "z_bpp", "adversarial", "d_loss"),
    *("d_real", "d_fake", "d_labelmix", "d_accuracy", "d_fakes_found"),
    *("generator_grad_norm", "discriminator_grad_norm"),
  ):
    assert (name, 4) in scalars, name
  assert scalars["generator_learning_rate", 4] == pytest.approx(1e-3)
  assert scalars["discriminator_learning_rate", 4] == pytest.approx(4e-3)


@pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "num_steps"])
def test_intervals_are_positive(train, name):
  with pytest.raises(ValueError, match=name.removeprefix("num_")):
    train("run", **{name: 0})


def test_metrics_are_means_over_the_interval(train):
  _, single = train("single", num_steps=2, log_every=1)
  outcome, _ = train("double", num_steps=2, log_every=2)
  losses = [
    float(line.split("loss ")[1].split()[0])
    for line in single
    if "loss " in line
  ]
  assert outcome.metrics["loss"] == pytest.approx(np.mean(losses), abs=1e-3)
