"""Runs killed at an arbitrary moment, through the command line."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import micro_training
import pytest

from egic_jax.training import checkpoints

_ROOT = pathlib.Path(__file__).resolve().parents[2]

_STEPS = 40


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


def _start(workdir, data_dir, *more):
  return subprocess.Popen(
    [
      sys.executable,
      str(_ROOT / "tests" / "micro_program.py"),
      "--config",
      str(_ROOT / "configs" / "tiny.py"),
      "--workdir",
      str(workdir),
      "model.preset=micro",
      f"data.data_dir={data_dir}",
      "data.config=tiny",
      "data.crop_size=64",
      "data.batch_size=2",
      f"train.steps={_STEPS}",
      "train.log_every=1",
      "train.checkpoint_every=10",
      "train.num_samples=0",
      *more,
    ],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _finish(process):
  output, errors = process.communicate(timeout=120)
  assert process.returncode == 0, errors
  return output


def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path, data_dir):
  _finish(_start(tmp_path / "whole", data_dir))

  process = _start(tmp_path / "killed", data_dir)
  deadline = time.monotonic() + 120
  for line in process.stdout:
    # Anywhere: while a checkpoint is being written as well as between two.
    if line.startswith("step 21/"):
      process.send_signal(signal.SIGKILL)
      break
    assert time.monotonic() < deadline
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  kept = checkpoints.load_parameters(tmp_path / "killed")[2]
  assert 0 < kept < _STEPS

  output = _finish(_start(tmp_path / "killed", data_dir))
  assert f"continuing after step {kept}" in output
  _, expected, step = checkpoints.load_parameters(tmp_path / "whole")
  _, found, _ = checkpoints.load_parameters(tmp_path / "killed")
  assert step == _STEPS
  assert micro_training.trees_equal(expected, found)

  # The same directory with other data: one line, exit code 1.
  process = _start(tmp_path / "killed", data_dir, "data.seed=9")
  _, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert errors.startswith("egic train: error: ")
  assert "data.seed was 0, is 9" in errors
  assert len(errors.splitlines()) == 1
