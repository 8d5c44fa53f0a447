"""What a training step moves on a GPU, from its program, compiled without one.

    python -m venv cuda && cuda/bin/pip install '.[train]' 'jax[cuda13]'
    cuda/bin/python benchmarks/gpu_traffic.py --stage stage1_mse --batch 16
    cuda/bin/python benchmarks/gpu_traffic.py --devices 4 --batch 64

XLA compiles for a GPU that is only described. Its program, one of several
devices' where they share a batch, says which kernels there are and how large the
arrays are that each reads and writes; what stays in caches is not known, nor is
any time. How products are cut up is not tuned without a GPU, so fusions around
products may differ there.

`--to FOLDER` keeps the program, which `accelerator.py --programs FOLDER` then runs on
such a GPU without compiling it. With `--tuned FOLDER` products are cut up, and cuDNN's
convolutions chosen, as that GPU's own compilations found best: the folder
xla_gpu_per_fusion_autotune_cache_dir of its JAX_COMPILATION_CACHE_DIR. Not found there,
cuDNN's may not run.
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import pickle
import re
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import described_gpu
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_ARRAY = re.compile(rf"({'|'.join(_BYTES)})\[([0-9,]*)\]")
_INSTRUCTION = re.compile(
  r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)"
)
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}


def compile_step(arguments):
  """The compiled training step."""
  import training_step

  from egic_jax import runtime
  from egic_jax.models import swin
  from egic_jax.ops import gpu_kernel
  from egic_jax.training import sharding
  from egic_jax.training import state as state_lib

  mesh = sharding.make_mesh(devices=described_gpu.devices(arguments.devices))
  made = training_step.make(
    arguments.stage,
    arguments.preset,
    dtype=jnp.bfloat16,
    kind=arguments.kind,
    execution=dataclasses.replace(
      swin.Execution.of_training(
        "gpu", gpu_kernel.Devices.of(mesh), arguments.remat, jnp.bfloat16
      ),
      **({"kernels": None, "entropy_dtype": None} if arguments.plain else {}),
    ),
  )
  state = jax.eval_shape(
    lambda params: state_lib.create(
      params, {}, stage=made.stage, optimizers=made.optimizers
    ),
    made.networks.param_shapes(made.stage.params),
  )
  shape = (arguments.batch, arguments.crop, arguments.crop)
  batch = {"image": jax.ShapeDtypeStruct((*shape, 3), jnp.uint8)}
  if made.stage.needs_labels:
    for name in ("label", "weight"):
      batch[name] = jax.ShapeDtypeStruct(shape, jnp.uint8)
  where = batched = SingleDeviceSharding(mesh.devices.flat[0])
  if mesh.size > 1:
    where, batched = sharding.replicated(mesh), sharding.split_batch(mesh)
  key = jax.eval_shape(lambda: jax.random.key(0))
  return (
    jax.jit(
      made.step,
      donate_argnums=0,
      in_shardings=(where, batched, where),
      out_shardings=where,
    )
    .lower(state, batch, key)
    .compile(runtime.COMPILER_OPTIONS["gpu"])
  )


def kernels(program: str) -> list[tuple[str, str, int]]:
  """(kind, part of the network, bytes) of each kernel of a program's text."""
  entry = program[program.index("\nENTRY ") :]
  sizes, found = {}, []
  for line in entry[: entry.index("\n}")].split("\n"):
    match = _INSTRUCTION.match(line)
    if not match:
      continue
    name, shape, operation, operands, rest = match.groups()
    sizes[name] = _bytes_of(shape)
    if operation in _FREE:
      continue
    read = [sizes.get(x, 0) for x in re.findall(r"%([\w.\-]+)", operands)]
    if name.startswith("wrapped_slice"):
      # Of the gradients of all devices, which come as one array.
      read = [sizes[name]]
    moved = sizes[name] + sum(read)
    part = re.search(r'op_name="([^"]*)"', rest)
    found.append(
      (_kind(name, operation, rest), _part(part and part.group(1)), moved)
    )
  return found


def _bytes_of(shape: str) -> int:
  total = 0
  for dtype, sides in _ARRAY.findall(shape):
    count = 1
    for side in filter(None, sides.split(",")):
      count *= int(side)
    total += count * _BYTES[dtype]
  return total


def _kind(name, operation, rest):
  target = re.search(r'custom_call_target="([^"]*)"', rest)
  if target:
    return target.group(1)
  return re.sub(r"[.\d]+$", "", name) if operation == "fusion" else operation


def _part(name):
  """A place in the network, without numbers of blocks, stages and slices."""
  name = re.sub(r"jit\([^)]*\)/", "", name or "")
  name = name.replace("transpose(jvp(", "gradient((").replace("jvp(", "(")
  name = re.sub(r"(block|stage|conv|mean|scale|up|down)_\d+", r"\1", name)
  return name[:110]


def _keep(compiled, arguments):
  import training_step
  from jax.experimental import serialize_executable

  arguments.to.mkdir(parents=True, exist_ok=True)
  path = training_step.kept_program(
    arguments.to,
    arguments.stage,
    arguments.preset,
    arguments.batch,
    plain=arguments.plain,
    remat=arguments.remat,
  )
  path.write_bytes(pickle.dumps(serialize_executable.serialize(compiled)))
  print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


def _report(found, most):
  total = sum(moved for *_, moved in found)
  print(f"{len(found)} kernels and copies, {total / 1e9:.1f} GB")
  for title, index in (("kind", 0), ("part", 1)):
    counts, sums = collections.Counter(), collections.Counter()
    for row in found:
      counts[row[index]] += 1
      sums[row[index]] += row[2]
    print(f"\n| {title} | kernels | GB |\n|---|---|---|")
    for name, moved in sums.most_common(most):
      print(f"| {name} | {counts[name]} | {moved / 1e9:.2f} |")


def main() -> None:
  """Prints memory, then bytes and kernels by kind and by part."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--stage", default="stage1_mse")
  parser.add_argument("--preset", default="full")
  parser.add_argument("--batch", type=int, default=16)
  parser.add_argument("--devices", type=int, default=1)
  parser.add_argument("--crop", type=int, default=256)
  parser.add_argument("--kind", default="adam", help="of optimiser")
  parser.add_argument("--remat", action="store_true")
  parser.add_argument("--plain", action="store_true", help="no kernels of ours")
  parser.add_argument("--to", type=pathlib.Path, help="keep the program there")
  parser.add_argument("--tuned", type=pathlib.Path, help="see above")
  parser.add_argument("--most", type=int, default=25, help="rows of a table")
  arguments = parser.parse_args()
  described_gpu.set_flags(arguments.tuned)
  try:
    described_gpu.pretend_kernels(not arguments.plain)
    start = time.monotonic()
    compiled = compile_step(arguments)
  except ImportError as error:
    sys.exit(
      f"{error}: pip install 'jax[cuda13]', beside a jax of 0.11 or later"
    )
  memory = compiled.memory_analysis()
  print(
    f"{arguments.preset}, {arguments.stage}, {arguments.devices} devices,"
    f" {arguments.batch} x {arguments.crop} x {arguments.crop}, jax"
    f" {jax.__version__}: traced and compiled in {time.monotonic() - start:.0f} s,"
    f" temporaries {memory.temp_size_in_bytes / 1e9:.2f} GB"
  )
  _report(kernels(compiled.as_text()), arguments.most)
  if arguments.to:
    _keep(compiled, arguments)


if __name__ == "__main__":
  main()
