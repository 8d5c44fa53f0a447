"""Lines that tell how far a large picture has come."""

import sys
import time

# About 16 megapixels.
_LARGE = 48
_LINES = 10


class PartProgress:
  """Prints a line on stderr at every tenth of a large picture."""

  def __init__(self, name: str):
    self._name = name
    self._start = time.perf_counter()
    self._shown = 0

  def __call__(self, done: int, total: int) -> None:
    """To be called after each part, with the parts done and in all."""
    tenths = _LINES * done // total
    if total < _LARGE or tenths in (self._shown, _LINES):
      return
    self._shown = tenths
    spent = time.perf_counter() - self._start
    print(
      f"{self._name}: {done} of {total} parts, {spent:.0f} s,"
      f" about {spent * (total - done) / done:.0f} s left",
      file=sys.stderr,
      flush=True,
    )
