"""Lines for the user: where the run is, how fast, how long it will take."""

import contextlib
import math
import sys
import time

import jax

_SHOWN = (
  ("loss", ".4f"),
  ("bpp", ".4f"),
  ("psnr", ".2f"),
  ("lpips", ".4f"),
  ("adversarial", ".3f"),
  ("d_loss", ".3f"),
  ("accuracy", ".3f"),
)


def print_line(text: str) -> None:
  """Prints one line at once, also into a pipe; on the first process only."""
  if jax.process_index() == 0:
    print(text, file=sys.stdout, flush=True)


class Clock:
  """Speed and time left, from the steps made since the last progress line."""

  def __init__(self, step: int, num_steps: int):
    self._num_steps = num_steps
    self._step = step
    self._time = time.perf_counter()
    self._rate = math.nan

  def progress(self, step: int, metrics: dict[str, float]) -> str:
    """A line for the steps since the last call, with their mean metrics."""
    now = time.perf_counter()
    self._rate = (step - self._step) / max(now - self._time, 1e-9)
    self._step, self._time = step, now
    left = (self._num_steps - step) / self._rate
    width = len(str(self._num_steps))
    shown = "  ".join(
      f"{name} {metrics[name]:{form}}"
      for name, form in _SHOWN
      if name in metrics
    )
    return (
      f"step {step:{width}}/{self._num_steps}  {shown}"
      f"  {self._rate:.2f} steps/s  ETA {_duration(left)}"
    )

  @property
  def steps_per_second(self) -> float:
    """As of the last progress line."""
    return self._rate

  @contextlib.contextmanager
  def paused(self):
    """Leaves out the time of what is not a training step."""
    start = time.perf_counter()
    yield
    self._time += time.perf_counter() - start


def _duration(seconds: float) -> str:
  seconds = round(seconds)
  hours, minutes = seconds // 3600, seconds // 60 % 60
  if hours:
    return f"{hours}h{minutes:02d}m"
  return f"{minutes}m{seconds % 60:02d}s"
