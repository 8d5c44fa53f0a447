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
import atexit
import collections
import dataclasses
import os
import pathlib
import pickle
import re
import shutil
import sys
import tempfile
import time

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

# An H200, as XLA describes devices; what an H200 was tuned for is found by this.
_DEVICE = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4813824000000
  l2_cache_size: 62914560
  clock_rate_ghz: 1.98
  device_memory_size: 150000000000
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_ARRAY = re.compile(rf"({'|'.join(_BYTES)})\[([0-9,]*)\]")
_INSTRUCTION = re.compile(
  r"\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)"
)
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}


def described_gpus(count: int = 1):
  """The devices of a machine that is not there."""
  import jax_plugins.xla_cuda13  # noqa: F401

  return topologies.get_topology_desc(
    platform="cuda", target_config=_DEVICE, topology=f"1x1x{count}"
  ).devices


def pretend_kernels(wanted: bool) -> None:
  """Has kernels compiled for the described GPU, or left out."""
  from jax._src.pallas.triton import gpu_info

  from egic_jax.ops import gpu_kernel

  gpu_kernel._runs = lambda device: wanted
  h200 = gpu_info.get_gpu_info_from_version(gpu_info.GpuVersion.H200)
  gpu_info.get_gpu_info = lambda: h200


def compile_step(arguments):
  """The compiled training step."""
  import training_step

  from egic_jax import runtime
  from egic_jax.models import swin
  from egic_jax.ops import gpu_kernel
  from egic_jax.training import sharding
  from egic_jax.training import state as state_lib

  mesh = sharding.make_mesh(devices=described_gpus(arguments.devices))
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


def _without_version(tuned: pathlib.Path) -> str:
  """A copy in which what is known of cuDNN is of version 0.0.0, as without a GPU.

  A result is a file: a length-prefixed key, then length-prefixed what was found,
  which ends with the version of the library: of cuDNN 9 or, left as it is, cuBLAS 13.
  """
  copied = tempfile.mkdtemp()
  atexit.register(shutil.rmtree, copied, ignore_errors=True)
  for path in tuned.glob("*/*.pb"):
    data = path.read_bytes()
    version = re.search(rb"\x12([\x05-\x0a])9\.\d+\.\d+$", data)
    if version and version[1][0] == len(data) - version.start() - 2:
      length = 2 + data[1] + 1
      none = b"\x12\x050.0.0"
      change = len(none) - (len(data) - version.start())
      data = b"".join(
        (
          data[:length],
          bytes([data[length] + change]),
          data[length + 1 : version.start()],
          none,
        )
      )
    place = pathlib.Path(copied, path.parent.name)
    place.mkdir(exist_ok=True)
    (place / path.name).write_bytes(data)
  return copied


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
  flags = ["--xla_gpu_experimental_cost_model_gemm_tiling_default=true"]
  if arguments.tuned:
    tuned = _without_version(arguments.tuned)
    flags.append(f"--xla_gpu_per_fusion_autotune_cache_dir={tuned}")
  os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
  try:
    pretend_kernels(not arguments.plain)
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
