"""One device and four, whole and split state: the same losses; checkpoints fit."""

import four_devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

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
  shape = arguments[-1].devices.shape
  if shape not in programs:
    programs[shape] = compile_step(*arguments)
    state = arguments[1]
    kept = [
      sharding.bytes_per_device(part) / sharding.bytes_in_all(part)
      for part in (state.params, state.opt_state, state.ema)
    ]
    # A few vectors stay whole.
    assert all(x == 1 if shape[1] == 1 else x < 0.6 for x in kept), kept
  return programs[shape]

loop._compile = compile_once

def train(name, mesh, num_steps):
  arguments = micro_training.run_arguments()
  lines = []
  arguments |= {
    "mesh": sharding.make_mesh(*mesh), "log_every": 1, "num_steps": num_steps,
    "checkpoint_every": 100, "min_split_size": 64, "ema_decay": 0.9,
    "report": lines.append,
  }
  workdir = root / name
  workdir.mkdir(exist_ok=True)
  checkpoints.write_config(
    workdir, {"model": {"codec": presets.config_to_dict(config)}})
  loop.run(workdir, **arguments)
  assert any("state split" in line for line in lines) == (mesh[1] > 1)
  scalars = micro_training.read_scalars(workdir / "tensorboard")
  return {
    (name, step): value for (name, step), value in scalars.items()
    if name in ("loss", "y_bpp", "z_bpp", "mse_255", "grad_norm")}

def compare(found, count):
  for a in found[1:]:
    assert a.keys() == found[0].keys() and len(a) == count, a
    for key in a:
      np.testing.assert_allclose(
        a[key], found[0][key], rtol=2e-5, err_msg=str(key))

assert jax.device_count() == 4
one, four, split = (1, 1), (4, 1), (2, 2)
compare(
  [train("one", one, 3), train("four", four, 3), train("split", split, 3)], 15)
# Each continues where another saved.
compare(
  [train("four", one, 4), train("one", split, 4), train("split", four, 4)], 20)
print("same")
"""


def test_any_mesh_gives_the_same_and_goes_on_from_any_other(tmp_path):
  printed = four_devices.run(
    _PROGRAM, str(tmp_path), JAX_DISABLE_MOST_OPTIMIZATIONS="1"
  )
  assert "same" in printed


def _fake_devices(count, processes=1):
  """Enough of a device for a mesh."""

  class Device:
    def __init__(self, number):
      self.id = number
      # Numbered across the machines, as on some TPU slices.
      self.process_index = number % processes

    def __repr__(self):
      return f"{self.process_index}:{self.id}"

  return [Device(number) for number in range(count)]


def test_rows_of_a_batch_follow_the_processes():
  mesh = sharding.make_mesh(-1, 2, _fake_devices(8, processes=2))
  assert mesh.shape == {"data": 4, "fsdp": 2}
  assert [d.process_index for d in mesh.devices.flat] == [0] * 4 + [1] * 4
  assert sharding.split_batch(mesh).spec == PartitionSpec(("data", "fsdp"))


@pytest.mark.parametrize(
  ("shape", "spec"),
  [
    ((3, 3, 16, 32), PartitionSpec(None, None, None, "fsdp")),
    ((3, 3, 32, 16), PartitionSpec(None, None, "fsdp")),
    ((64, 64), PartitionSpec(None, "fsdp")),
    ((66, 63), PartitionSpec()),
    ((6, 4, 70), PartitionSpec(None, "fsdp")),
    ((64,), PartitionSpec()),
    ((), PartitionSpec()),
  ],
)
def test_what_is_split(shape, spec):
  mesh = AbstractMesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
  found = sharding.state_shardings({"a": leaf}, mesh, 100)["a"]
  assert found.spec == spec
  split = sharding.abstract_like([leaf], found)
  least = 4 * int(np.prod(shape)) // (4 if spec else 1)
  assert sharding.bytes_per_device(split) == least


def test_too_many_devices_are_named():
  with pytest.raises(ValueError, match="mesh.data=1000: there are"):
    sharding.make_mesh(1000)
  with pytest.raises(ValueError, match="mesh.data=0"):
    sharding.make_mesh(0)
  devices = _fake_devices(8, processes=2)
  with pytest.raises(ValueError, match="mesh.fsdp=3: does not divide the 8"):
    sharding.make_mesh(-1, 3, devices)
  with pytest.raises(ValueError, match="mesh.fsdp=9: there are 8 devices"):
    sharding.make_mesh(-1, 9, devices)
  with pytest.raises(ValueError, match="mesh.data=5 times mesh.fsdp=2"):
    sharding.make_mesh(5, 2, devices)
  with pytest.raises(ValueError, match="mesh.data=2: with several processes"):
    sharding.make_mesh(2, 2, devices)


def test_a_batch_divides_over_the_devices():
  mesh = sharding.make_mesh(1)
  sharding.check_batch_size(3, mesh)
  with pytest.raises(ValueError, match="data.batch_size=0"):
    sharding.check_batch_size(0, mesh)
  sharding.check_batch_size(4, mesh, parts=2)
  with pytest.raises(ValueError, match="data.batch_size=3.*times 2"):
    sharding.check_batch_size(3, mesh, parts=2)
