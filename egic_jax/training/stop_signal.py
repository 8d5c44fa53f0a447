"""Stopping when asked to: after a whole step, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax


class StopSignal:
  """Turns SIGTERM and Ctrl-C into a flag that is looked at after each step.

  Under jax.distributed its runtime watches SIGTERM instead and tells the other
  processes, so that all stop after the same step; Ctrl-C is passed on to it.
  """

  def __init__(self, report: Callable[[str], None]):
    self._report = report
    self._before: dict[int, Any] = {}
    self.received = False

  def __enter__(self) -> "StopSignal":
    if threading.current_thread() is not threading.main_thread():
      return self
    numbers = [signal.SIGINT]
    if not jax.distributed.is_initialized():
      numbers.append(signal.SIGTERM)
    for number in numbers:
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
    if jax.distributed.is_initialized():
      os.kill(os.getpid(), signal.SIGTERM)
