"""A GPU that is not there, for which programs are compiled all the same."""

import atexit
import os
import pathlib
import re
import shutil
import tempfile

from jax.experimental import topologies

# An H200, as XLA describes devices; what an H200 was tuned for is found by this. From
# a driver of this version on, all of a step is one CUDA graph.
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
  runtime_version: "13.0.0"
  driver_version: "13.0.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 19 patch: 0 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""


def set_flags(tuned: pathlib.Path | None) -> None:
  """Sets XLA's flags; to be called before anything is compiled.

  How products are cut up, and how cuDNN makes convolutions, is tried out on a GPU.

  Args:
    tuned: what a GPU found best, xla_gpu_per_fusion_autotune_cache_dir in its
      JAX_COMPILATION_CACHE_DIR; products that are not there, or all without it, are
      cut up by a model of what they cost.
  """
  flags = ["--xla_gpu_experimental_cost_model_gemm_tiling_default=true"]
  if tuned:
    copy = _without_version(tuned)
    flags.append(f"--xla_gpu_per_fusion_autotune_cache_dir={copy}")
  os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])


def devices(count: int = 1):
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
