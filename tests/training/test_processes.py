"""Several processes as one run, through the command and the real pipeline.

One process throughout, against a run that is interrupted and goes on with other
numbers of processes and devices. In processes of their own, since jax starts
once in each.
"""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import micro_training
import numpy as np
import pytest

from egic_jax.models.discriminators import oasis_c
from egic_jax.training import (
  checkpoints,
  errors,
  processes,
  sharding,
  validation,
  workdir,
)

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def _environment(devices):
  return os.environ | {
    "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }


def _start(command, count, devices):
  """*count* processes of one command."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  started = []
  for index in range(count):
    joined = {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
      "JAX_NUM_PROCESSES": str(count),
      "JAX_PROCESS_ID": str(index),
    }
    started.append(
      subprocess.Popen(
        [sys.executable, *command],
        env=_environment(devices) | (joined if count > 1 else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  return started


def _finish(started):
  """What each printed."""
  printed = []
  try:
    for process in started:
      output, errors = process.communicate(timeout=600)
      assert process.returncode == 0, errors
      # gloo's own lines, which no setting silences, interrupt others.
      printed.append(output)
  finally:
    for process in started:
      process.kill()
  return printed


def _command(root, name, steps):
  return [
    str(_ROOT / "tests" / "micro_program.py"),
    *("--config", str(_ROOT / "configs" / "tiny.py")),
    *("--workdir", str(root / name), "model.preset=micro"),
    *(f"data.data_dir={root / 'tfds'}", "data.config=tiny"),
    *("data.crop_size=64", "data.batch_size=4", "data.num_threads=1"),
    # Nothing that depends on the number of steps.
    *(f"train.steps={steps}", "optimizer.final_learning_rate=0.001"),
    *("train.log_every=1", "train.checkpoint_every=1000"),
    "train.num_samples=0",
  ]


def _losses(directory):
  names = ("loss", "y_bpp", "z_bpp", "mse_255", "grad_norm")
  return {
    key: value
    for key, value in micro_training.read_scalars(
      directory / "tensorboard"
    ).items()
    if key[0] in names
  }


def test_any_processes_and_devices_continue_the_same_run(tmp_path):
  # One process of four devices.
  _finish(_start(_command(tmp_path, "changing", 5), 1, 4))
  # Two processes of two; after five steps of theirs one is asked to stop.
  started = _start(_command(tmp_path, "changing", 1000), 2, 2)
  for line in started[0].stdout:
    if line.startswith("step   10/"):
      started[1].send_signal(signal.SIGTERM)
      break
  first, second = _finish(started)
  stopped, *_ = workdir.steps_on_disk(tmp_path / "changing")
  assert stopped >= 10
  assert f"interrupted: saved step {stopped} of 1000" in first
  # Lines for the user come from the first alone.
  assert "step" not in second
  # One process of one device; and one that does all from the beginning.
  last = stopped + 5
  (output,) = _finish(_start(_command(tmp_path, "changing", last), 1, 1))
  assert f"continuing after step {stopped}" in output
  _finish(_start(_command(tmp_path, "whole", last), 1, 1))

  expected = _losses(tmp_path / "whole")
  found = _losses(tmp_path / "changing")
  assert found.keys() == expected.keys()
  assert len(found) == 5 * last
  for key, value in expected.items():
    np.testing.assert_allclose(found[key], value, rtol=1e-4, err_msg=str(key))
  _, expected, _ = checkpoints.load_parameters(tmp_path / "whole")
  _, found, step = checkpoints.load_parameters(tmp_path / "changing")
  assert step == last
  for a, b in zip(
    micro_training.leaves(expected), micro_training.leaves(found), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)


_TWO = """
import pathlib, sys
from egic_jax.training import processes
processes.start({}, detect=False)
import jax, numpy as np
import micro_training
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import (
  checkpoints, errors, metrics_writer, panels, progress, sharding, validation,
  views, workdir)
from egic_jax.training import state as state_lib
root, index = pathlib.Path(sys.argv[1]), jax.process_index()
mesh = sharding.make_mesh(-1, 4)

def refused(function, *arguments, **named):
  try:
    function(*arguments, **named)
  except (ValueError, errors.TrainingError) as error:
    return str(error)
  raise AssertionError(f"{function} passed")

assert processes.all_agree(True)
assert not processes.all_agree(index == 0)
processes.check_same("data", "a")
assert "process 1 has data other" in refused(
  processes.check_same, "data", str(index))

def fail_on_second():
  if index == 1:
    raise ValueError("only here")

message = refused(processes.first_then_others, fail_on_second)
assert ("only here" in message) == (index == 1), message

# Work directories that are not the same one.
workdir._STORAGE_DELAY = 0.5
config = {"data": {"seed": 0, "data_dir": str(index)}}
assert "storage that all" in refused(
  workdir.claim, root / str(index), config, report=print)
workdir.claim(root / "run", config, report=print)
assert "process 1 has a configuration other" in refused(
  workdir.claim, root / "run", {"data": {"seed": index}}, report=print)

# A checkpoint that one process cannot read is used by none.
values = {"codec": {"a": np.arange(64.0), "b": np.arange(3.0)}}

def split(tree):
  # (shapes, arrays split over all four devices)
  tree = jax.tree.map(np.asarray, tree)
  abstract = sharding.abstract_like(
    tree, sharding.state_shardings(tree, mesh, 8))
  return abstract, jax.tree.map(
    lambda like, x: jax.make_array_from_callback(
      like.shape, like.sharding, lambda place: x[place]),
    abstract, tree)

def state_of(step):
  params = jax.tree.map(lambda x: x + step, values)
  return split(state_lib.TrainState(np.int32(step), params, {}))

lines = []
saved = checkpoints.Checkpoints(
  root / "run", keep=3, dataset_identity="", report=lines.append)
iterator = micro_training.make_iterator(4, shard=(index, 2))
for step in (1, 2):
  next(iterator)
  saved.save(state_of(step)[1], iterator)
saved.wait()
read = saved._read

def broken(step, *arguments):
  if index == 1 and step == 2:
    raise OSError("no such block")
  return read(step, *arguments)

saved._read = broken
restored = saved.restore_newest_good(state_of(0)[0], iterator)
saved.close()
assert int(restored.step) == 1 and iterator.get_state() == {"next_index": 1}
assert not restored.params["codec"]["a"].is_fully_replicated
for shard in restored.params["codec"]["a"].addressable_shards:
  whole = values["codec"]["a"] + 1
  np.testing.assert_array_equal(shard.data, whole[shard.index])
expected = "no such block" if index == 1 else "another process could not"
assert expected in lines[0], lines
assert (root / "run" / "corrupt_checkpoints" / "2").is_dir()

networks = micro_training.micro_networks()
iterator = micro_training.make_iterator(4, shard=(index, 2))
batches = [
  dict(next(iterator), valid=np.arange(4) < 4 - index) for _ in range(2)]
_, variables = split({"discriminator": oasis_c.init_params(
  networks.discriminator_config, 0)})
scores = validation.SegmentationValidator(networks, batches, mesh)(variables)
print("scores", scores["miou"], scores["pixel_accuracy"])
writer = metrics_writer.make_writer(root / "run" / "tensorboard")
samples = next(micro_training.make_iterator(3))
sampler = panels.Sampler(
  views.make_views(networks)["segmentation"], samples, mesh,
  root / "run" / "samples", writer)
progress.print_line(sampler(2, variables))
writer.close()
"""


def test_two_processes_agree(tmp_path):
  printed = _finish(_start(["-c", _TWO, str(tmp_path)], 2, 2))
  networks = micro_training.micro_networks()
  iterator = micro_training.make_iterator(8)
  valid = np.arange(8) < 7
  batches = [dict(next(iterator), valid=valid) for _ in range(2)]
  variables = {
    "discriminator": oasis_c.init_params(networks.discriminator_config, 0)
  }
  expected = validation.SegmentationValidator(
    networks, batches, sharding.make_mesh(1)
  )(variables)
  for output in printed:
    found = [float(x) for x in output.split("scores ")[1].split()[:2]]
    assert found == pytest.approx(list(expected.values()), abs=2e-3)
  # One of them writes and tells.
  assert ["samples: " in output for output in printed] == [True, False]
  run = tmp_path / "run"
  assert [p.name for p in (run / "samples").iterdir()] == ["step_00000002.png"]
  assert len(list((run / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num-processes": "2"}, "--coordinator, --process-id: missing"),
    ({"coordinator": "here"}, "--num-processes, --process-id: missing"),
    (
      {"coordinator": "here", "num-processes": "2", "process-id": "0"},
      "--coordinator=here: must be HOST:PORT",
    ),
    (
      {"coordinator": "here:1", "num-processes": "2", "process-id": "2"},
      "--process-id=2: must be less than --num-processes=2",
    ),
    (
      {"coordinator": "here:1", "num-processes": "0", "process-id": "0"},
      "--num-processes=0: must be a whole number >= 1",
    ),
    (
      {"coordinator": "here:1", "num-processes": "2", "process-id": "x"},
      "--process-id=x: must be a whole number",
    ),
  ],
)
def test_options_that_do_not_do(options, message):
  with pytest.raises(ValueError, match=message) as caught:
    processes.start(options, detect=False)
  assert "\n" not in str(caught.value)


@pytest.fixture
def initialize(monkeypatch):
  """What jax is asked to do; it does nothing."""
  calls = []

  def record(*arguments, **named):
    calls.append((*arguments, named["cluster_detection_method"]))

  monkeypatch.setattr(jax.distributed, "initialize", record)
  return calls


def test_one_process_joins_nothing(initialize):
  assert not processes.start({}, detect=False)
  assert initialize == []


def test_options_come_before_the_environment(initialize, monkeypatch):
  monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "there:2")
  monkeypatch.setenv("JAX_NUM_PROCESSES", "3")
  monkeypatch.setenv("JAX_PROCESS_ID", "1")
  assert processes.start({"coordinator": "here:1"}, detect=False)
  # All is said: a cluster is not asked, which would hide devices.
  assert initialize == [("here:1", 3, 1, "deactivate")]


def test_the_cluster_is_asked_for_the_rest(initialize):
  assert processes.start({"num-processes": "2"}, detect=True)
  assert initialize == [(None, 2, None, None)]


@pytest.mark.parametrize(
  ("kind", "raised", "message"),
  [
    (ValueError, ValueError, "--distributed: no cluster that jax knows"),
    (RuntimeError, errors.TrainingError, "process 0 of 2 cannot join"),
  ],
)
def test_no_one_there_is_one_line(monkeypatch, kind, raised, message):
  def fail(*_, **__):
    raise kind("DEADLINE_EXCEEDED\nmore")

  monkeypatch.setattr(jax.distributed, "initialize", fail)
  options = {"coordinator": "h:1", "num-processes": "2", "process-id": "0"}
  with pytest.raises(raised, match=message) as caught:
    processes.start(options, detect=False)
  assert "\n" not in str(caught.value)
