"""The quality code whose file has a size that was asked for.

Each trial codes the picture once more, so trials are few. The logarithm of a
file's size grows with the code, almost linearly and almost always. So the next
trial is where a straight line through two former ones meets the target, kept
between the best trial below it and the best above; and since neither "almost" is
a promise, what is returned is always a trial, never a prediction.
"""

import math
from collections.abc import Callable

from egic_jax.bitstream import quality

# Of log size per code: about twelve times the bytes from the first code to the
# last. Only the second trial rests on it.
_TYPICAL_SLOPE = math.log(12) / (quality.CODES[-1] - 1)
_START = quality.CODES[len(quality.CODES) // 2]
# Trials after which lines are given up and what is left is halved.
_MAX_LINES = 6


def largest_within(size: Callable[[int], float], target: float) -> int | None:
  """The code of the largest file that is not above the target.

  Args:
    size: of the file of a code, above 0; called once a code.
    target: in the same unit, above 0.

  Returns:
    A code in `quality.CODES` that was tried and is within the target. The next
    one, tried as well, is not, unless there is none. None if even the first
    code's file is larger.
  """
  return _close_in(size, target, lambda code, meets: False)


def nearest(size: Callable[[int], float], target: float) -> int:
  """The code, of those tried, of the file nearest to the target.

  Arguments as above. Steps are of about 1 %, and where the line meets the
  target within half a step of a trial nothing is left to gain.
  """
  tried: dict[int, float] = {}

  def remembered(code):
    tried[code] = size(code)
    return tried[code]

  _close_in(remembered, target, lambda code, meets: abs(meets - code) <= 0.5)
  return min(tried, key=lambda code: abs(tried[code] - target))


def _close_in(
  size: Callable[[int], float],
  target: float,
  enough: Callable[[int, float], bool],
) -> int | None:
  """Tries codes until two neighbours have the target between them.

  Args:
    size, target: as in `largest_within`.
    enough: called with the code of the trial nearest to the target and where
      the line through it meets the target; True ends the search.

  Returns:
    The code within the target, or None.
  """
  # Tried, or one beyond the codes there are.
  below, above = quality.CODES[0] - 1, quality.CODES[-1] + 1
  # Logarithm of size over target, by code.
  trials: dict[int, float] = {}
  code = _START
  while True:
    trials[code] = math.log(size(code) / target)
    if trials[code] <= 0:
      below = code
    else:
      above = code
    if above - below <= 1:
      break
    best, *others = sorted(trials, key=lambda code: abs(trials[code]))
    slope = _TYPICAL_SLOPE
    if others:
      found = (trials[others[0]] - trials[best]) / (others[0] - best)
      # A line that falls, or hardly rises, is the noise of small files.
      slope = found if found > _TYPICAL_SLOPE / 20 else slope
    meets = best - trials[best] / slope
    if others and enough(best, meets):
      break
    code = min(max(round(meets), below + 1), above - 1)
    if len(trials) >= _MAX_LINES:
      code = (below + above) // 2
  return below if below >= quality.CODES[0] else None
