"""A step compiled from shapes alone: for CPUs here, for a TPU with libtpu."""

import collections
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import four_devices
import jax
import jax.numpy as jnp
import micro_program  # noqa: F401  Adds the size "micro".
import pytest

from egic_jax.cli import overrides
from egic_jax.models import swin
from egic_jax.training import (
  ahead_of_time,
  chips,
  loop,
  sharding,
  tpu_topology,
  trainer,
)

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_MICRO = (
  "model.preset=micro",
  "model.discriminator_preset=micro",
  "data.config=tiny",
  "data.crop_size=64",
  "data.batch_size=4",
)


def _config(name, *changes):
  config = overrides.load_config(str(_ROOT / "configs" / f"{name}.py"))
  overrides.apply_overrides(config, [*_MICRO, *changes])
  return config


def _this_cpu():
  device = jax.devices()[:1]
  return tpu_topology.Slice("cpu:1x1", chips.CHIPS["v5e"], tuple(device))


def _prepare(name, *changes, **arguments):
  return ahead_of_time.prepare(
    _config(name, *changes), _this_cpu(), **arguments
  )


class _Stop(Exception):
  pass


def test_it_is_the_step_that_training_compiles(monkeypatch, tmp_path):
  def stop_before_compiling(step_fn, state, batch, key, constants, mesh):
    jitted = sharding.jit_step(step_fn, state, mesh)
    trained.append(jitted.lower(state, batch, key, constants))
    raise _Stop

  trained = []
  monkeypatch.setattr(loop, "_compile", stop_before_compiling)
  config = _config(
    "tiny_discriminator",
    "mesh.data=1",
    # Has a state of its own, and nothing to compile beforehand.
    "model.normalization=spectral",
    f"data.data_dir={tmp_path / 'tfds'}",
    "train.num_samples=0",
    "train.validate_every=0",
    "train.accumulate=2",
  )
  with pytest.raises(_Stop):
    trainer.train(config, str(tmp_path / "run"), report=lambda line: None)
  program = ahead_of_time.prepare(config, _this_cpu())
  lowered = ahead_of_time.lower(program)
  assert set(lowered.args_info[0][0].params) == {"discriminator"}
  assert _summary(lowered) == _summary(trained[0])


def _summary(lowered):
  """Arguments, and products with their shapes.

  Not the whole text: the numbers and the sharing of its functions depend on
  what was traced before in this process.
  """
  products = re.findall(
    r"stablehlo\.(?:dot_general|convolution|power|log).*", lowered.as_text()
  )
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), lowered.args_info)
  return str(shapes), collections.Counter(
    re.sub(r"%\w+", "%", product) for product in products
  )


def test_a_stage_lowers_with_what_it_needs():
  program = _prepare("tiny_orp")
  (state, batch, _, constants), _ = ahead_of_time.lower(program).args_info
  assert set(batch) == {"image"}
  assert batch["image"].shape == (4, 64, 64, 3)
  assert constants == {}
  assert set(state.params) == {"codec", "orp"}


def test_remat_reaches_the_networks_of_the_platform():
  for changes, execution in [
    ((), swin.Execution()),
    (("train.remat=True",), swin.Execution(remat=True, chunked=True)),
    (
      ("model.compute_dtype=bfloat16",),
      swin.Execution(factor_dtype=jnp.bfloat16),
    ),
  ]:
    networks = _prepare("tiny_orp", *changes).networks
    assert networks.execution == networks.codec.execution == execution


@pytest.mark.parametrize(
  ("name", "changes", "classes"),
  [
    ("tiny_gan", ("data.name=coco",), 133),
    ("tiny_gan", (), 13),
    ("tiny_gan", ("data.name=image_label_folder",), None),
    (
      "tiny_gan",
      ("data.name=image_label_folder", "data.taxonomy=photographs"),
      26,
    ),
  ],
)
def test_classes_without_opening_data(name, changes, classes):
  if classes is None:
    with pytest.raises(ValueError, match="--num-classes N"):
      _prepare(name, *changes)
    assert _prepare(name, *changes, num_classes=5).networks.num_classes == 5
  else:
    assert _prepare(name, *changes).networks.num_classes == classes


def test_a_batch_that_does_not_divide():
  with pytest.raises(ValueError, match="data.batch_size=3: must be"):
    _prepare("tiny_gan", "data.batch_size=3")


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    ("Ran out. Used 20.50G of 15.75G hbm. Exceeded", 20.5 * 2**30),
    ("Used 900.0M of 15.75G hbm", 900 * 2**20),
    ("RESOURCE_EXHAUSTED: something else", 0),
  ],
)
def test_what_is_needed_when_it_does_not_fit(message, expected):
  assert ahead_of_time.needed_bytes(message) == expected


def test_a_step_that_does_not_fit_is_told(monkeypatch):
  class Lowered:
    def __init__(self, message):
      self._message = message

    def compile(self, compiler_options):
      raise jax.errors.JaxRuntimeError(self._message)

  def fail(message):
    monkeypatch.setattr(ahead_of_time, "lower", lambda _: Lowered(message))
    return ahead_of_time.measure(_prepare("tiny_mse"))

  found = fail("RESOURCE_EXHAUSTED: Used 20.00G of 15.75G hbm.")
  assert found.memory is None and found.roofline is None
  assert found.needed_bytes == 20 * 2**30
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    fail("INTERNAL: Used 20.00G of 15.75G hbm.")


def test_each_part_of_a_batch_is_work(monkeypatch):
  class Compiled:
    def cost_analysis(self):
      return {"flops": 197e9, "bytes accessed": 819e6}

    def memory_analysis(self):
      names = ("argument", "output", "alias", "temp", "generated_code")
      sizes = {f"{name}_size_in_bytes": 10**i for i, name in enumerate(names)}
      return types.SimpleNamespace(**sizes)

    def as_text(self):
      return ""

  lowered = types.SimpleNamespace(compile=lambda compiler_options: Compiled())
  monkeypatch.setattr(ahead_of_time, "lower", lambda _: lowered)
  found = ahead_of_time.measure(_prepare("tiny_mse", "train.accumulate=4"))
  assert found.flops == 4 * 197e9
  assert found.roofline.compute == pytest.approx(4e-3)
  assert found.roofline.memory == pytest.approx(4e-3)
  assert found.needed_bytes == 1 + 10 - 100 + 1000 + 10000


_FOUR = """
import dataclasses, json, math
import four_devices
import jax
import jax.numpy as jnp
import test_ahead_of_time as tests
from egic_jax.training import ahead_of_time, chips, tpu_topology

assert jax.device_count() == 4
program = ahead_of_time.prepare(
  tests._config("tiny_discriminator", "data.batch_size=8"),
  tpu_topology.Slice("cpu:2x2", chips.CHIPS["v5e"], tuple(jax.devices())))
measured = ahead_of_time.measure(program)
shapes = program.networks.param_shapes(program.stage.params)
# No latent is given, so nothing trains its embedding.
unused = shapes["discriminator"]["embedding"]
count = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
print(json.dumps({
  "memory": dataclasses.asdict(measured.memory),
  "peak": measured.memory.peak,
  "needed": measured.needed_bytes,
  "flops": measured.flops,
  "params": count(shapes),
  "trained": count(shapes) - count(unused),
  "messages": [dataclasses.asdict(m) for m in measured.messages],
}))
"""


def test_four_cpu_devices():
  printed = four_devices.run(
    _FOUR,
    folder="training",
    timeout=300,
    JAX_DISABLE_MOST_OPTIMIZATIONS="1",
  )
  found = json.loads(printed)
  # Of each device: parameters and two moments, float32; and a quarter of the
  # batch, 2 pictures of 64 x 64 with three colours, a label and a weight.
  expected = 3 * 4 * found["params"] + 2 * 64 * 64 * 5
  memory = found["memory"]
  assert expected <= memory["arguments"] < expected + 1000
  # The state is given up for the next one.
  assert memory["aliased"] > 0.99 * 3 * 4 * found["params"]
  assert found["needed"] == found["peak"] > memory["temporaries"] > 0
  assert found["flops"] > 0
  # Gradients are summed over all four; a few are made of others' sums.
  (message,) = found["messages"]
  assert (message["kind"], message["group"]) == ("all-reduce", 4)
  assert 0.95 < message["payload_bytes"] / (4 * found["trained"]) < 1.05


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="compiling for a TPU needs libtpu: pip install 'egic_jax[tpu-aot]'",
)
def test_a_real_slice(tmp_path):
  program = """
import sys
import micro_program
from egic_jax.cli import main
from egic_jax.training import ahead_of_time

lower = ahead_of_time.lower

def check(program):
  lowered = lower(program)
  text = lowered.as_text(debug_info=True)
  # Attention's products for accelerators, not those for CPUs.
  assert "nqhd,nkhd->nhqk" in text and "nqd,nkd->nqk" not in text
  return lowered

ahead_of_time.lower = check
sys.exit(main.main(sys.argv[1:]))
"""
  result = tmp_path / "result.json"
  arguments = ["aot", "--topology", "v5e:2x2", "--batch-per-chip", "1"]
  arguments += ["--quick", "--json", str(result)]
  arguments += ["--config", str(_ROOT / "configs" / "tiny_orp.py")]
  done = subprocess.run(
    [sys.executable, "-c", program, *arguments, *_MICRO],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")]),
      "JAX_PLATFORMS": "cpu",
    },
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert "orp" in done.stdout
  # The harmless warnings of a machine without a TPU are not passed on.
  assert "TPU_ACCELERATOR_TYPE" not in done.stderr
  (row,) = json.loads(result.read_text())
  assert (row["chips"], row["batch_size"], row["fits"]) == (4, 4, True)
  assert row["flops"] > 0 and row["roofline_seconds"]["step"] > 0
  assert "all-reduce" in {m["kind"] for m in row["collectives"]}
