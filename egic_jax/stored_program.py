"""Jitted functions whose compiled programs outlive the process.

jax's compilation cache spares a second process the compiler, but not tracing
and lowering, which take several times as long as decoding a picture. Here the
executable itself is kept (`program_store`). The process that compiles it runs
the same one, so that results do not depend on who did.
"""

import contextlib
import pickle
import threading
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from egic_jax import allocator, program_store, runtime


class StoredProgram:
  """Calls a jitted function by stored executables, where that is possible.

  That is with a store in use, on a machine of one CPU device, for concrete
  arrays. Everything else is left to jit, and so is whatever goes wrong.
  """

  def __init__(
    self,
    jitted: Callable,
    key: str,
    static_argnums=(),
    select: Callable | None = None,
  ):
    """Wraps a function of positional arguments.

    Args:
      jitted: of `jax.jit`, with the same static_argnums.
      key: names all that decides what is computed, but for the source code:
        shapes in mappings among the arguments (parameters) included.
      static_argnums: positions of arguments that are compiled in.
      select: takes the arguments of a call, returns those that the function is
        given: mappings with what it needs of them. Each of hundreds of
        parameters costs a microsecond or two a call, needed or not.
    """
    self._jitted = jitted
    self._select = select or (lambda *args: args)
    self._key = key
    self._static = frozenset(static_argnums)
    self._executables: dict[str, Callable] = {}
    self._lock = threading.Lock()

  def __call__(self, *args):
    args = self._select(*args)
    call = self._find(args)
    if call is None:
      return self._jitted(*args)
    dynamic = [x for i, x in enumerate(args) if i not in self._static]
    try:
      return call(*dynamic)
    # Other parameters than the key promised, or elsewhere.
    except (TypeError, ValueError):
      return self._jitted(*args)
    except jax.errors.JaxRuntimeError as error:
      if "NOT_FOUND" not in str(error):
        raise
      return self._jitted(*args)  # A function is missing from what was kept.

  def prepare(self, *args) -> None:
    """Begins in the background to load or compile what a call will run.

    Args:
      *args: as of the call; for arrays, jax.ShapeDtypeStruct will do.
    """

    def work():
      # The call would meet the same error, and tell.
      with contextlib.suppress(Exception):
        self._find(self._select(*args))

    if program_store.current() is not None:
      threading.Thread(target=work).start()

  def lower(self, *args):
    """As of the jitted function."""
    return self._jitted.lower(*self._select(*args))

  def _cache_size(self) -> int:
    return self._jitted._cache_size() + len(self._executables)

  def _find(self, args) -> Callable | None:
    """An executable for these arguments, or None: left to jit."""
    store = program_store.current()
    if store is None or not _one_cpu() or not _concrete(args):
      return None
    signature = self._signature(args)
    call = self._executables.get(signature)
    if call is None:
      with self._lock:
        call = self._executables.get(signature)
        if call is None:
          call = _Executable(self._executable(store, signature, args))
          self._executables[signature] = call
    return call

  def _executable(
    self, store: program_store.Store, signature: str, args
  ) -> Callable:
    key = f"{self._key} {signature}"
    kept = store.read("program", key)
    if kept is not None:
      try:
        return serialize_executable.deserialize_and_load(*pickle.loads(kept))
      except Exception:
        pass
    with allocator.compiling():
      lowered = self._jitted.lower(*args)
      with without_compilation_cache():
        compiled = lowered.compile(runtime.COMPILER_OPTIONS["cpu"])
      try:
        parts = serialize_executable.serialize(compiled)
        store.write("program", key, pickle.dumps(parts))
      except Exception:
        pass
      return compiled

  def _signature(self, args) -> str:
    return str(
      [
        x if i in self._static else _shapes(x)
        for i, x in enumerate(args)
        if not isinstance(x, Mapping)
      ]
    )


class _Executable:
  """A compiled program; from its second call on it is worth tidying up for."""

  def __init__(self, call: Callable):
    self._call = call
    self._ran = False

  def __call__(self, *args):
    if self._ran:
      allocator.set_crumbs_aside()
    self._ran = True
    return self._call(*args)


@contextlib.contextmanager
def without_compilation_cache():
  """Has the compiler run: what comes from jax's cache cannot be kept.

  XLA's CPU executables, once read back, are serialised without their code.
  """
  global _compiling, _cache_enabled
  name = "jax_enable_compilation_cache"
  with _switch:
    if not _compiling:
      _cache_enabled = jax.config.values[name]
      jax.config.update(name, False)
      compilation_cache.reset_cache()
    _compiling += 1
  try:
    yield
  finally:
    with _switch:
      _compiling -= 1
      if not _compiling:
        jax.config.update(name, _cache_enabled)
        compilation_cache.reset_cache()


_switch = threading.Lock()
_compiling = 0
_cache_enabled = True


def _shapes(x):
  if isinstance(x, tuple):
    return tuple(map(_shapes, x))
  return np.shape(x), str(x.dtype)


def _one_cpu() -> bool:
  return jax.default_backend() == "cpu" and jax.device_count() == 1


def _concrete(args) -> bool:
  leaves = jax.tree.leaves([x for x in args if not isinstance(x, Mapping)])
  return not any(isinstance(x, jax.core.Tracer) for x in leaves)
