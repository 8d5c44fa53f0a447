"""One device and four: the same losses, and checkpoints from one to the other.

In a process of its own, since the number of devices is fixed when jax starts.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from egic_jax.training import sharding

_PROGRAM = """
import pathlib, sys
import jax, numpy as np
import micro_training
from egic_jax import runtime
from egic_jax.models import presets
from egic_jax.training import checkpoints, loop, sharding

runtime.configure()
root = pathlib.Path(sys.argv[1])
config = micro_training.micro_config()
programs = {}
compile_step = loop._compile

def compile_once(*arguments):
  mesh = arguments[-1]
  if mesh.size not in programs:
    programs[mesh.size] = compile_step(*arguments)
  return programs[mesh.size]

loop._compile = compile_once

def train(name, devices, num_steps):
  arguments = micro_training.run_arguments()
  arguments |= {
    "mesh": sharding.make_mesh(devices), "log_every": 1, "num_steps": num_steps,
    "checkpoint_every": 100,
  }
  workdir = root / name
  workdir.mkdir(exist_ok=True)
  checkpoints.write_config(
    workdir, {"model": {"codec": presets.config_to_dict(config)}})
  loop.run(workdir, **arguments)
  scalars = micro_training.read_scalars(workdir / "tensorboard")
  return {
    (name, step): value for (name, step), value in scalars.items()
    if name in ("loss", "y_bpp", "z_bpp", "mse_255", "grad_norm")}

def compare(a, b, count):
  assert a.keys() == b.keys() and len(a) == count, (a, b)
  for key in a:
    np.testing.assert_allclose(a[key], b[key], rtol=2e-5, err_msg=str(key))

assert jax.device_count() == 4
compare(train("one", 1, 3), train("four", 4, 3), 15)
# A checkpoint of four devices continues on one, and the other way round.
compare(train("four", 1, 4), train("one", 4, 4), 20)
print("same")
"""


def test_one_and_four_devices_give_the_same(tmp_path):
  root = pathlib.Path(__file__).resolve().parents[2]
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM, str(tmp_path)],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    },
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  assert "same" in done.stdout


def test_too_many_devices_are_named():
  with pytest.raises(ValueError, match="mesh.data=1000: there are"):
    sharding.make_mesh(1000)
  with pytest.raises(ValueError, match="mesh.data=0"):
    sharding.make_mesh(0)


def test_a_batch_divides_over_the_devices():
  mesh = sharding.make_mesh(1)
  sharding.check_batch_size(3, mesh)
  with pytest.raises(ValueError, match="data.batch_size=0"):
    sharding.check_batch_size(0, mesh)
  sharding.check_batch_size(4, mesh, parts=2)
  with pytest.raises(ValueError, match="data.batch_size=3.*times 2"):
    sharding.check_batch_size(3, mesh, parts=2)
