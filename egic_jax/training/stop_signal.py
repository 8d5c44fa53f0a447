"""Stopping when asked to: after a whole step, with a checkpoint."""

import signal
import threading
from collections.abc import Callable
from typing import Any

import jax


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag that is looked at after each step."""

  def __init__(self, report: Callable[[str], None]):
    self._report = report
    self._before: dict[int, Any] = {}
    self.received = False

  def __enter__(self) -> "StopSignal":
    # Under jax.distributed the runtime watches SIGTERM itself, so that all
    # processes stop after the same step (see loop).
    if (
      threading.current_thread() is threading.main_thread()
      and not jax.distributed.is_initialized()
    ):
      for number in (signal.SIGTERM, signal.SIGINT):
        self._before[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number, _):
    if self.received:
      raise KeyboardInterrupt
    self.received = True
    self._report(
      f"{signal.Signals(number).name}: finishing the present step, then saving"
      " (once more to stop at once)"
    )
