"""Process-wide settings for the command line: allocator, compilation cache.

A library should not turn such knobs behind its caller's back, so nothing here
runs on import: each command calls `configure()` first.
"""

import os
import pathlib
import platform

from egic_jax import allocator

# For the compiler, by platform. On a CPU it takes a tenth to a fifth less time at
# level 1 than at its usual 3; what it makes is as fast and gives the same bits (at
# level 0 it is a third as fast). On a GPU it would make one of two products with the
# same weights, those of an adversarial step's two halves, and then copies both
# factors and results: 4.4 of 78 GB.
COMPILER_OPTIONS = {
  "cpu": {"xla_backend_optimization_level": 1},
  "gpu": {"xla_gpu_dot_merger_threshold_mb": 0},
}


def configure() -> None:
  """Sets the allocator and the compilation cache; call it before using jax.

  The environment comes first: with any `MALLOC_*` or `LD_PRELOAD` set the
  allocator is left alone, and `JAX_COMPILATION_CACHE_DIR` or `EGIC_CACHE_DIR`
  names the cache (`EGIC_CACHE_DIR=off` means none).
  """
  allocator.keep_freed_memory()
  directory = set_compilation_cache()
  from egic_jax import program_store

  program_store.use(None if directory is None else directory / "programs")


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


def _machine() -> str:
  from egic_jax import program_store

  return f"{platform.machine()}-{program_store.cpu_features()}"
