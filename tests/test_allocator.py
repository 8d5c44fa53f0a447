"""glibc's malloc: when it is set, and what becomes of a compilation's crumbs."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
import weakref

import pytest

from egic_jax import allocator

pytestmark = pytest.mark.skipif(
  not sys.platform.startswith("linux")
  or allocator.platform.libc_ver()[0] != "glibc",
  reason="needs glibc",
)

PIECES = 3000
LEFT_OVER = 40


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
  for name in list(os.environ):
    if name.startswith("MALLOC_") or name in ("LD_PRELOAD", "GLIBC_TUNABLES"):
      monkeypatch.delenv(name)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def test_allocator_is_set_on_glibc():
  assert allocator.keep_freed_memory()


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("MALLOC_ARENA_MAX", "2"),
    ("LD_PRELOAD", "libtcmalloc.so"),
    ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
    ("JAX_PLATFORMS", "cuda,cpu"),
  ],
)
def test_allocator_is_left_alone(monkeypatch, name, value):
  monkeypatch.setenv(name, value)
  assert not allocator.keep_freed_memory()


@pytest.fixture
def heap(monkeypatch):
  """What `compiling` works on, with nothing set aside."""
  heap = allocator.Heap()
  heap.set_aside()  # What other tests have left.
  outer = heap
  heap = allocator.Heap()
  monkeypatch.setattr(allocator, "_heap", heap)
  yield heap
  heap.release()
  outer.release()


class Crumbs:
  """Blocks of 4 to 70 KB, every second one of which is freed again."""

  def __init__(self):
    libc = ctypes.CDLL("libc.so.6")
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    self._free = libc.free
    self.sizes = [4200 + 22 * i for i in range(PIECES)]
    blocks = []
    for size in self.sizes:
      blocks.append(libc.malloc(size))
      blocks.append(libc.malloc(size))
    self.freed, self.kept = blocks[::2], blocks[1::2]
    for i, (address, size) in enumerate(
      zip(self.kept, self.sizes, strict=True)
    ):
      ctypes.memset(address, i % 251 + 1, size)
    for address, size in zip(self.freed, self.sizes, strict=True):
      ctypes.memset(address, 255, size)
      self._free(address)

  def unharmed(self) -> bool:
    return all(
      ctypes.string_at(address, size) == bytes([i % 251 + 1]) * size
      for i, (address, size) in enumerate(
        zip(self.kept, self.sizes, strict=True)
      )
    )

  def clear(self):
    for address in self.kept:
      self._free(address)


@pytest.fixture
def crumbs(heap):
  crumbs = Crumbs()
  yield crumbs
  crumbs.clear()


def medium(heap):
  """Free chunks of the sizes that programs are spared."""
  return sum(
    count
    for smallest, largest, count in heap.free_lists()
    if smallest >= 4096 and largest < 1 << 20
  )


def resident_bytes():
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_crumbs_are_set_aside(heap, crumbs):
  with allocator.compiling():
    pass
  assert medium(heap) >= PIECES - LEFT_OVER
  before = resident_bytes()
  allocator.set_crumbs_aside()
  assert medium(heap) < LEFT_OVER
  assert crumbs.unharmed()
  # Half of the blocks, but for the pages that they share with others.
  assert before - resident_bytes() > sum(crumbs.sizes) - PIECES * 2 * 4096


def test_unreachable_objects_are_collected(heap):
  class Node:
    pass

  with allocator.compiling():
    node = Node()
    node.itself = node
    gone = weakref.ref(node)
    gc.disable()
    del node
  try:
    allocator.set_crumbs_aside()
  finally:
    gc.enable()
  assert gone() is None


def test_only_after_a_compilation(heap, crumbs):
  with allocator.compiling():
    pass
  allocator.set_crumbs_aside()
  heap.release()
  allocator.set_crumbs_aside()
  assert medium(heap) >= PIECES - LEFT_OVER


def test_next_compilation_has_them(heap, crumbs):
  with allocator.compiling():
    pass
  allocator.set_crumbs_aside()
  with allocator.compiling():
    assert medium(heap) >= PIECES - LEFT_OVER
    assert crumbs.unharmed()
  allocator.set_crumbs_aside()
  assert medium(heap) < LEFT_OVER


def test_not_while_another_thread_compiles(heap, crumbs):
  inside, leave = threading.Event(), threading.Event()

  def other():
    with allocator.compiling():
      inside.set()
      leave.wait(60)

  thread = threading.Thread(target=other)
  with allocator.compiling():
    thread.start()
    inside.wait(60)
  allocator.set_crumbs_aside()
  assert medium(heap) >= PIECES - LEFT_OVER
  leave.set()
  thread.join()
  allocator.set_crumbs_aside()
  assert medium(heap) < LEFT_OVER


def test_after_a_compilation_that_fails(heap, crumbs):
  with pytest.raises(KeyError), allocator.compiling():
    raise KeyError
  allocator.set_crumbs_aside()
  assert medium(heap) < LEFT_OVER


def test_nothing_is_set_aside_unless_memory_is_kept(monkeypatch, heap, crumbs):
  monkeypatch.setattr(allocator, "_heap", None)
  with allocator.compiling():
    pass
  allocator.set_crumbs_aside()
  assert medium(heap) >= PIECES - LEFT_OVER


def test_first_call_compiles(heap, crumbs):
  seen = []
  call = allocator.first_call_compiles(lambda x: seen.append(medium(heap)) or x)
  with allocator.compiling():
    pass
  allocator.set_crumbs_aside()
  assert [call(1), call(2)] == [1, 2]
  assert seen[0] >= PIECES - LEFT_OVER
  assert seen[1] < LEFT_OVER


def test_place_of_temporaries_stays_free():
  """What comes between two steps does not take of the first one's temporaries."""
  script = """
import ctypes
import numpy as np
from egic_jax import allocator
assert allocator.keep_freed_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
with allocator.compiling():
  pass
allocator.set_crumbs_aside()
temporaries = libc.malloc(1 << 30)
result = libc.malloc(1 << 20)  # Behind them: they are not at the heap's end.
libc.free(temporaries)
rng = np.random.default_rng(0)
for size in [6 << 20, 2 << 20, *np.exp(rng.uniform(3, 12, 2000))]:
  assert libc.malloc(int(size))
assert libc.malloc(1 << 30) == temporaries
"""
  subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_chunks_of_other_arenas_are_left_alone():
  """Of a thread with an arena of its own, where the first one's lists say nothing."""
  script = """
import ctypes, threading
ready, go = threading.Event(), threading.Event()
def work():
  libc = ctypes.CDLL("libc.so.6")
  libc.malloc.restype = ctypes.c_void_p
  libc.malloc(5000)  # An arena for this thread: no limit is set yet.
  ready.set()
  go.wait()
  taken.append(heap.set_aside())
taken = []
thread = threading.Thread(target=work)
thread.start()
ready.wait()
from egic_jax import allocator
heap = allocator.Heap()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(20000) for _ in range(200)]
for block in blocks[::2]:
  libc.free(block)
count = sum(c for s, l, c in heap.free_lists() if s >= 4096 and l < 1 << 20)
assert count >= 100, count
go.set()
thread.join()
assert taken == [1], taken
"""
  subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
