"""Process-wide settings for the command line: allocator, compilation cache.

A library should not turn such knobs behind its caller's back, so nothing here
runs on import: each command calls `configure()` first.
"""

import ctypes
import glob
import os
import pathlib
import platform
import sys

# glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

# For the compiler, by platform. On a CPU it takes a tenth to a fifth less time at
# level 1 than at its usual 3; what it makes is as fast and gives the same bits (at
# level 0 it is a third as fast). On a GPU it would make one of two products with the
# same weights, those of an adversarial step's two halves, and then copies both
# factors and results: 4.4 of 78 GB.
COMPILER_OPTIONS = {
  "cpu": {"xla_backend_optimization_level": 1},
  "gpu": {"xla_gpu_dot_merger_threshold_mb": 0},
}

_ACCELERATOR_FILES = (
  "/dev/nvidia[0-9]*",
  "/dev/kfd",
  "/dev/accel*",
  "/dev/vfio/[0-9]*",
)


def configure() -> None:
  """Sets the allocator and the compilation cache; call it before using jax.

  The environment comes first: with any `MALLOC_*` or `LD_PRELOAD` set the
  allocator is left alone, and `JAX_COMPILATION_CACHE_DIR` or `EGIC_CACHE_DIR`
  names the cache (`EGIC_CACHE_DIR=off` means none).
  """
  keep_freed_memory()
  directory = set_compilation_cache()
  from egic_jax import program_store

  program_store.use(None if directory is None else directory / "programs")


def keep_freed_memory() -> bool:
  """Tells glibc to keep freed memory instead of returning it to the system.

  XLA on CPUs takes its temporaries from malloc at every call. glibc maps each
  large one afresh and unmaps it afterwards, so that every page faults every
  time, which costs up to half of a training step. Memory use stays at its
  peak instead.

  Returns:
    Whether the setting was made: on glibc, for the CPU backend, and if the
    environment does not already configure an allocator.
  """
  if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
    return False
  if "LD_PRELOAD" in os.environ or "GLIBC_TUNABLES" in os.environ:
    return False
  if any(name.startswith("MALLOC_") for name in os.environ):
    return False
  if not _cpu_backend_expected():
    return False
  try:
    libc = ctypes.CDLL("libc.so.6")
    return all(
      libc.mallopt(parameter, value) == 1
      for parameter, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_ARENA_MAX, 1),
      )
    )
  except (OSError, AttributeError):
    return False


def set_compilation_cache() -> pathlib.Path | None:
  """Makes jax keep compiled programs on disk between runs.

  Returns:
    The directory in use, or None (switched off, set elsewhere, unwritable).
  """
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return None
  place = os.environ.get("EGIC_CACHE_DIR")
  if place is not None and place.lower() in ("", "0", "off", "none"):
    return None
  if place is None:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    place = os.path.join(home, "egic_jax", "xla")
  # A cache directory may be shared between machines; programs compiled for
  # one processor need not run on another.
  directory = pathlib.Path(place).expanduser().absolute() / _machine()
  try:
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.W_OK):
      return None
  except OSError:
    return None

  import jax

  jax.config.update("jax_compilation_cache_dir", str(directory))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
  return directory


def _cpu_backend_expected() -> bool:
  # Asking jax would start its backend, which has to happen after mallopt (and
  # after jax.distributed.initialize).
  platforms = os.environ.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms.split(",")[0].strip().lower() == "cpu"
  return not any(glob.glob(pattern) for pattern in _ACCELERATOR_FILES)


def _machine() -> str:
  from egic_jax import program_store

  return f"{platform.machine()}-{program_store.cpu_features()}"
