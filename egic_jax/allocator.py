"""glibc's malloc, as XLA's programs on a CPU need it.

XLA takes its temporaries and its threads' workspace from malloc, and runs faster by
a third and more if malloc is told two things: to keep what is freed
(`keep_freed_memory`), and not to hand out a compilation's crumbs (`set_crumbs_aside`).
Both leave alone what is not glibc, not for a CPU, or set up by the user.
"""

import contextlib
import ctypes
import gc
import glob
import itertools
import mmap
import os
import platform
import re
import sys
import threading
from collections.abc import Callable

# glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8

_ACCELERATOR_FILES = (
  "/dev/nvidia[0-9]*",
  "/dev/kfd",
  "/dev/accel*",
  "/dev/vfio/[0-9]*",
)

# Sizes of free chunks, in bytes, that programs are spared. Smaller ones mostly have
# lists of their own size, larger ones are few.
_SMALLEST = 4096
_LARGEST = 1 << 20
_FEW = 32
_MOST_PASSES = 8
# Free chunks to leave in their place, so that what is allocated next has somewhere to
# go: (bytes, how many). Pages that nobody writes to take no memory.
_CUSHION = ((2 << 20, 32), (8 << 20, 16), (32 << 20, 8))
# A chunk's size lies before its content, with flags in the last three bits.
_SIZE_BYTES = ctypes.sizeof(ctypes.c_size_t)
_OF_ANOTHER_ARENA = 4
_FLAGS = 7
_MADV_DONTNEED = 4

# A row of malloc_info(3): chunks of one list, smallest and largest size, how many.
_LIST = re.compile(r'<size from="(\d+)" to="(\d+)" total="\d+" count="(\d+)"/>')


def keep_freed_memory() -> bool:
  """Tells glibc to keep freed memory instead of returning it to the system.

  XLA on CPUs takes its temporaries from malloc at every call. glibc maps each
  large one afresh and unmaps it afterwards, so that every page faults every
  time, which costs up to half of a training step. Memory use stays at its
  peak instead. All threads share one arena, because others than the first map large
  blocks whatever they are told.

  Returns:
    Whether the setting was made: on glibc, for the CPU backend, and if the
    environment does not already configure an allocator.
  """
  global _heap
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
    kept = all(
      libc.mallopt(parameter, value) == 1
      for parameter, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, -1),
        (_M_ARENA_MAX, 1),
      )
    )
    if kept and _heap is None:
      _heap = Heap()
    return kept
  except (OSError, AttributeError):
    return False


@contextlib.contextmanager
def compiling():
  """Around tracing and compiling a program: what it leaves is crumbs.

  Between what stays of it a compiler leaves free chunks, 58,000 of a full training
  step. For every block of some KB glibc looks for the best of them, lock held, so
  that XLA's threads wait for each other: that step took 8 % longer.
  `set_crumbs_aside` takes them away; the next compilation has them first. Before
  programs run it leaves a cushion (`Heap.leave_cushion`).

  Contexts may be nested, and in several threads. Without `keep_freed_memory` this
  does nothing, nor do the functions below.
  """
  global _running, _crumbs
  with _lock:
    if _heap is not None and not _running:
      _heap.release()
    _running += 1
  try:
    yield
  finally:
    with _lock:
      _running -= 1
      _crumbs = _heap is not None
      if _crumbs and not _running:
        _heap.leave_cushion()


def set_crumbs_aside() -> None:
  """Takes compilations' crumbs and leaves them unused, their pages given back.

  For programs that run more than once: it takes some tenths of a second if anything
  has been compiled since, else nothing. While anything is being compiled it waits for
  a later call. What tracing leaves, unreachable, is collected first.
  """
  global _crumbs
  if not _crumbs or _running:
    return
  gc.collect()
  with _lock:
    if _crumbs and not _running:
      _crumbs = False
      _heap.set_aside()


def first_call_compiles(function: Callable) -> Callable:
  """The same function, its first call within `compiling`, then crumbs aside."""
  called = False

  def call(*args):
    nonlocal called
    if called:
      return function(*args)
    called = True
    with compiling():
      result = function(*args)
    set_crumbs_aside()
    return result

  return call


class Heap:
  """The free chunks of glibc's first arena; not for several threads at once."""

  def __init__(self):
    """Raises AttributeError or OSError if this C library is not glibc."""
    libc = ctypes.CDLL("libc.so.6")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t

    def function(name, result, *arguments):
      found = getattr(libc, name)
      found.restype, found.argtypes = result, arguments
      return found

    self._malloc = function("malloc", pointer, size)
    self._realloc = function("realloc", pointer, pointer, size)
    self._free = function("free", None, pointer)
    self._advise = function(
      "madvise", ctypes.c_int, pointer, size, ctypes.c_int
    )
    self._info = function("malloc_info", ctypes.c_int, ctypes.c_int, pointer)
    self._open = function(
      "open_memstream", pointer, ctypes.POINTER(pointer), ctypes.POINTER(size)
    )
    self._close = function("fclose", ctypes.c_int, pointer)
    self._aside: list[int] = []
    self._cushioned = False

  def free_lists(self) -> list[tuple[int, int, int]]:
    """Smallest and largest size in bytes, and how many, of each list's chunks."""
    # What has been freed is on no list until glibc looks for something else.
    self._free(self._malloc(2 * _LARGEST))
    text, length = ctypes.c_void_p(), ctypes.c_size_t()
    stream = self._open(ctypes.byref(text), ctypes.byref(length))
    if not stream:
      return []
    self._info(0, stream)
    self._close(stream)
    described = ctypes.string_at(text.value, length.value).decode()
    self._free(text)
    first_arena = described.partition("</heap>")[0]
    return [tuple(map(int, row)) for row in _LIST.findall(first_arena)]

  def set_aside(self) -> int:
    """Takes the free chunks of 4 KB to 1 MB, and returns how many."""
    before = len(self._aside)
    # Each time what taking parts of them has left.
    for _ in range(_MOST_PASSES):
      lists = [
        (smallest, count)
        for smallest, largest, count in self.free_lists()
        if smallest >= _SMALLEST and largest < _LARGEST
      ]
      # From the largest on, as what is left of those belongs to later lists.
      wanted = itertools.chain.from_iterable(
        itertools.repeat(smallest, count)
        for smallest, count in sorted(lists, reverse=True)
      )
      if sum(count for _, count in lists) < _FEW or not all(
        map(self._take, wanted)
      ):
        break
    return len(self._aside) - before

  def release(self) -> None:
    """Frees what was set aside."""
    for address in self._aside:
      self._free(address)
    self._aside.clear()

  def leave_cushion(self) -> None:
    """Once, and unless large chunks are free, of which it would be made.

    A step's temporaries, gigabytes of them, are to find the place again where those
    of the step before were. Without other free chunks, whatever is allocated
    between two steps would be cut from it, and the process takes up twice the memory.
    """
    least = sum(size for size, _ in _CUSHION)
    if self._cushioned or any(
      largest >= least for _, largest, _ in self.free_lists()
    ):
      return
    self._cushioned = True
    blocks = [
      self._malloc(size) for size, count in _CUSHION for _ in range(count)
    ]
    self._malloc(_LARGEST)  # Stays behind the last one.
    for address in blocks:
      # The beginning of each stays, too: they would become one chunk otherwise.
      self._realloc(address, _SMALLEST)

  def _take(self, size: int) -> bool:
    """Takes a chunk, glibc's choice; False if it is not one of this arena."""
    address = self._malloc((size & ~_FLAGS) - _SIZE_BYTES)
    if not address:
      return False
    self._aside.append(address)
    head = ctypes.c_size_t.from_address(address - _SIZE_BYTES).value
    if head & _OF_ANOTHER_ARENA:  # This thread's, which has no such chunks.
      return False
    self._give_back_pages(address, (head & ~_FLAGS) - _SIZE_BYTES)
    return True

  def _give_back_pages(self, address: int, size: int) -> None:
    """Those that lie in a block altogether; what is in them is lost."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
      self._advise(start, end - start, _MADV_DONTNEED)


def _cpu_backend_expected() -> bool:
  # Asking jax would start its backend, which has to happen after mallopt (and
  # after jax.distributed.initialize).
  platforms = os.environ.get("JAX_PLATFORMS", "")
  if platforms:
    return platforms.split(",")[0].strip().lower() == "cpu"
  return not any(glob.glob(pattern) for pattern in _ACCELERATOR_FILES)


_heap: Heap | None = None
_lock = threading.Lock()
_running = 0
_crumbs = False
