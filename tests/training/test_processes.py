"""Two processes of two devices, and one of one: the same adversarial training.

In processes of their own, since jax starts once in each.
"""

import os
import pathlib
import socket
import subprocess
import sys

import micro_training
import numpy as np

from egic_jax.models import presets
from egic_jax.training import checkpoints

_ROOT = pathlib.Path(__file__).resolve().parents[2]

_PROGRAM = """
import pathlib, sys
import jax
workdir, address = pathlib.Path(sys.argv[1]), sys.argv[2]
index, count = int(sys.argv[3]), int(sys.argv[4])
if count > 1:
  jax.distributed.initialize(address, num_processes=count, process_id=index)
import micro_training
from egic_jax import runtime
from egic_jax.training import loop, sharding
runtime.configure()
assert jax.device_count() == count**2
arguments = micro_training.run_arguments("stage2_gan")
arguments |= {
  "mesh": sharding.make_mesh(),
  "iterator": micro_training.make_iterator(8 // count, shard=(index, count)),
  "log_every": 1, "num_steps": 5, "checkpoint_every": 100, "ema_decay": 0.9,
}
loop.run(workdir, **arguments)
"""


def _start(workdir, address, index, count):
  return subprocess.Popen(
    [
      *(sys.executable, "-c", _PROGRAM, str(workdir)),
      *(address, str(index), str(count)),
    ],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
      "JAX_PLATFORMS": "cpu",
      "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _train(workdir, count):
  workdir.mkdir()
  codec = presets.config_to_dict(micro_training.micro_config())
  checkpoints.write_config(workdir, {"model": {"codec": codec}})
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  processes = [_start(workdir, address, i, count) for i in range(count)]
  try:
    for process in processes:
      _, errors = process.communicate(timeout=300)
      assert process.returncode == 0, errors
  finally:
    for process in processes:
      process.kill()
  scalars = micro_training.read_scalars(workdir / "tensorboard")
  return {
    (name, step): value
    for (name, step), value in scalars.items()
    if name in ("loss", "bpp", "mse_255", "adversarial")
    or name.startswith("d_")
    or name.endswith("grad_norm")
  }


def test_two_by_two_and_one_by_one_give_the_same(tmp_path):
  one = _train(tmp_path / "one", 1)
  four = _train(tmp_path / "four", 2)
  assert one.keys() == four.keys()
  assert len(one) == 12 * 5
  for key, value in one.items():
    np.testing.assert_allclose(four[key], value, rtol=1e-4, err_msg=str(key))
  _, expected, _ = checkpoints.load_parameters(tmp_path / "one")
  _, found, step = checkpoints.load_parameters(tmp_path / "four")
  assert step == 5
  for a, b in zip(
    micro_training.leaves(expected), micro_training.leaves(found), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-4)
