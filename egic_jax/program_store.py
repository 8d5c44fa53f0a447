"""Files of earlier runs that spare this one work: programs, parameter shapes.

A file is found by a key that names all it depends on: the caller's own part,
our source code, the versions of Python and jax, jax's configuration and the
processor. Its content is checked by SHA-256. What is missing, damaged or
unreadable is made anew without a word, and nobody notices a full disk.

Programs are machine code, and are unpickled: whoever can write the directory
can run code here. So it is with jax's own compilation cache; unlike that, a
directory that is another user's, or that others may write to, is not used.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import platform
import stat

from egic_jax import atomic_files

# Together some 100 MB; the oldest go first.
_MOST_FILES = 400
_DIGEST_BYTES = 32
# What decides programs and shapes, in this package.
_SOURCES = ("models", "ops", "entropy", "bitstream/programs.py", "*.py")
# Of jax's configuration, what says where files go or what is logged.
_WITHOUT_EFFECT = ("cache", "log", "dump", "traceback", "pgle")


class Store:
  """Files of one directory, by kind and key."""

  def __init__(self, directory: str | os.PathLike):
    """Makes the directory; OSError if it cannot be had, or not safely."""
    self._directory = pathlib.Path(directory)
    self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = self._directory.stat()
    others = stat.S_IWGRP | stat.S_IWOTH
    if hasattr(os, "geteuid") and (
      found.st_uid != os.geteuid() or found.st_mode & others
    ):
      raise OSError(f"{directory} is not this user's alone to write")
    # Sources may change while we run: what was imported is what was there now.
    self._sources = _sources_digest()

  def read(self, kind: str, key: str) -> bytes | None:
    """What `write` was given for this key, or None."""
    path = self._path(kind, key)
    try:
      data = path.read_bytes()
      content = data[_DIGEST_BYTES:]
      if hashlib.sha256(content).digest() != data[:_DIGEST_BYTES]:
        return None
      os.utime(path)
    except OSError:
      return None
    return content

  def write(self, kind: str, key: str, content: bytes) -> None:
    """Keeps content for later runs, if that is possible."""
    if _sources_digest() != self._sources:
      return
    digest = hashlib.sha256(content).digest()
    with contextlib.suppress(OSError):
      atomic_files.write_bytes(self._path(kind, key), digest + content)
      self._leave_newest()

  def _path(self, kind: str, key: str) -> pathlib.Path:
    whole = json.dumps([key, self._sources, environment()])
    name = hashlib.sha256(whole.encode()).hexdigest()[:32]
    return self._directory / f"{kind}-{name}"

  def _leave_newest(self) -> None:
    files = [(path.stat().st_mtime, path) for path in self._directory.iterdir()]
    for _, path in sorted(files)[:-_MOST_FILES]:
      path.unlink(missing_ok=True)


def use(directory: str | os.PathLike | None) -> bool:
  """Makes a directory this process's store, or none; False if it has none."""
  global _current
  _current = None
  if directory is not None:
    with contextlib.suppress(OSError):
      _current = Store(directory)
  return _current is not None


def current() -> Store | None:
  """The store of this process, if `use` has named one."""
  return _current


def environment() -> str:
  """What else than our source code decides how a function is compiled."""
  import jax
  import jaxlib

  settings = {
    name: str(value)
    for name, value in jax.config.values.items()
    if not any(word in name for word in _WITHOUT_EFFECT)
  }
  threads = os.cpu_count()
  if hasattr(os, "sched_getaffinity"):
    threads = len(os.sched_getaffinity(0))
  device = jax.devices()[0]
  return json.dumps(
    [
      [platform.python_version(), jax.__version__, jaxlib.__version__],
      [device.platform, device.device_kind, device.client.platform_version],
      [threads, cpu_features(), os.environ.get("XLA_FLAGS", "")],
      settings,
    ],
    sort_keys=True,
  )


@functools.cache
def cpu_features() -> str:
  """Digest of the instructions that the processor knows."""
  features = platform.processor()
  with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
    features = next(
      (s for s in lines if s.startswith(("flags", "Features"))), features
    )
  return hashlib.sha256(features.encode()).hexdigest()[:8]


def _sources_digest() -> str:
  root = pathlib.Path(__file__).parent
  digest = hashlib.sha256()
  for name in _SOURCES:
    place = root / name
    found = place.rglob("*.py") if place.is_dir() else root.glob(name)
    for path in sorted(found):
      digest.update(f"{path.relative_to(root)}\n".encode())
      digest.update(path.read_bytes())
  return digest.hexdigest()


_current: Store | None = None
