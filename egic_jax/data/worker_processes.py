"""Batches made by several processes, in the order that one would make them.

Python runs one thread at a time, which bounds what threads alone can decode.
grain's processes have no such bound, but the state of their iterator is tied to
their number; that of this one is the number of batches taken.
"""

import functools
import os
import signal
import threading
import time
from typing import Any

import grain
from absl import flags

# How often a worker looks whether the training is still there.
_WATCH_SECONDS = 2.0


class WorkerIterator(grain.DatasetIterator):
  """Iterates over a dataset's elements, which worker processes compute.

  Its state is that of an iterator without worker processes, and one continues
  where the other stopped, with any number of them.
  """

  def __init__(
    self,
    elements: grain.MapDataset,
    *,
    num_workers: int,
    read_options: grain.ReadOptions,
    buffer_size: int,
  ):
    """Starts no process before the first element is asked for.

    Args:
      elements: random access to what is iterated over; goes to each worker by
        pickle.
      num_workers: processes, at least 1.
      read_options: of each worker.
      buffer_size: elements ready in each worker.
    """
    super().__init__()
    self._elements = elements
    self._num_workers = num_workers
    self._read_options = read_options
    self._buffer_size = buffer_size
    self._next_index = 0
    self._iterator = None

  def __next__(self) -> Any:
    self._assert_not_closed()
    if self._iterator is None:
      self._iterator = self._start()
    element = next(self._iterator)
    self._next_index += 1
    return element

  def get_state(self) -> dict[str, Any]:
    """{"next_index": elements taken}."""
    return {"next_index": self._next_index}

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from a state; workers that run are stopped."""
    self._stop()
    self._next_index = int(state["next_index"])

  def close(self) -> None:
    """Stops the worker processes."""
    self._stop()
    super().close()

  def _start(self):
    if not flags.FLAGS.is_parsed():
      # grain reads its own flags; without a program of absl's all are defaults.
      flags.FLAGS.mark_as_parsed()
    remaining = self._elements[self._next_index :]
    options = grain.multiprocessing.MultiprocessingOptions(
      num_workers=self._num_workers, per_worker_buffer_size=self._buffer_size
    )
    return iter(
      remaining.to_iter_dataset(self._read_options).mp_prefetch(
        options, functools.partial(_prepare_worker, os.getpid())
      )
    )

  def _stop(self):
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None


def _prepare_worker(parent: int, index: int, count: int) -> None:
  """Runs in each worker before it works."""
  del index, count
  # Ctrl-C reaches the whole group; the training itself stops its workers.
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch():
    # A training that was killed cannot stop them: they would wait for ever.
    while os.getppid() == parent:
      time.sleep(_WATCH_SECONDS)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
