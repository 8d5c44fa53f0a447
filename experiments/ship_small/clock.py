"""How much of the plan is over, and how many updates the device makes at once.

Times are those of time.monotonic. What is counted over all slices stands in the
position, a dictionary that is saved with the training.
"""

import time
from typing import Any

import plan

# Until one was timed.
_FIRST_SAVE_SECONDS = 8.0


def start_position(settings: plan.Settings, size: str) -> dict[str, Any]:
  """The position before the first update; JSON."""
  return {
    "size": size,
    "stage": next(iter(settings.stages)),
    "update": 0,
    "updates": 0,
    "images": 0,
    "seconds": 0.0,
    "spent": {name: 0.0 for name in settings.stages},
    "planned": {},
    "total": 0.0,
    "slices": 0,
    "saves": 0,
    "retries": 0,
    "compile_seconds": 0.0,
  }


class Clock:
  """The time of a slice, and what each stage gets of the whole.

  Each method is told the position, whose "stage" is the present one.

  Attributes:
    save_seconds: what the last save took.
  """

  def __init__(
    self,
    settings: plan.Settings,
    length: plan.Length,
    *,
    seconds: float,
    started: float,
    max_updates: int | None = None,
  ):
    """Starts at *started*.

    Args:
      settings: shares of stages, and how long the device is left alone.
      length: of all stages together.
      seconds: of this slice.
      started: when it began.
      max_updates: of this slice; None for no limit.
    """
    self._settings = settings
    self._length = length
    self._deadline = started + seconds
    self._marked = started
    self._left = max_updates
    self.save_seconds = _FIRST_SAVE_SECONDS

  def seconds_left(self) -> float:
    """Of the slice."""
    return self._deadline - time.monotonic()

  def reserve(self) -> float:
    """Seconds to be left for the last save, and for ending."""
    return 1.5 * self.save_seconds + 1.0

  def is_over(self) -> bool:
    """Whether the slice has no time, or no updates, left."""
    return self._left == 0 or self.seconds_left() <= 0

  def mark(self, position: dict[str, Any]) -> None:
    """Counts the time since the last call as the present stage's."""
    now = time.monotonic()
    position["spent"][position["stage"]] += now - self._marked
    position["seconds"] += now - self._marked
    self._marked = now

  def count(self, position: dict[str, Any], updates: int, images: int) -> None:
    """Counts updates that were made, and their time."""
    for name in ("update", "updates"):
      position[name] += updates
    position["images"] += images
    if self._left is not None:
      self._left -= updates
    self.mark(position)

  def plan(self, position: dict[str, Any]) -> None:
    """Sets the length of the stage, fixed at its first update.

    What was compiled and read until then is nobody's share; what later slices
    need to start again is.
    """
    name, total = position["stage"], self._length.total
    gone = position["seconds"] + time.monotonic() - self._marked
    if self._length.counts_updates:
      gone = position["updates"] - position["update"]
    if not position["update"] or name not in position["planned"]:
      self.mark(position)
      position["spent"][name] = 0.0
      position["planned"][name] = self._length.of_stage(
        self._settings, name, gone
      )
    elif position["total"] != total:
      # More minutes than were thought of, or fewer: the stage gets its share.
      share = self._length.of_stage(self._settings, name)
      position["planned"][name] += share * (1.0 - position["total"] / total)
    position["total"] = total

  def is_done(self, position: dict[str, Any]) -> bool:
    """Whether the stage has had its share."""
    return self._spent(position) >= self._planned(position)

  def next_count(self, position: dict[str, Any], pace: float | None) -> int:
    """Updates of the next dispatch; 0 if there is no time for one.

    Args:
      position: see there.
      pace: seconds of an update; None if none was timed.
    """
    left = self._planned(position) - self._spent(position)
    spare = self.seconds_left() - self.reserve()
    if self.is_over() or left <= 0 or (pace is None and spare < 0):
      return 0
    count = 1
    if pace is not None:
      count = max(int(self._settings.dispatch_seconds / pace), 1)
      count = min(count, int(spare / pace))
      if not self._length.counts_updates:
        count = min(count, int(left / pace) + 1)
    if self._length.counts_updates:
      count = min(count, left)
    if self._left is not None:
      count = min(count, self._left)
    return max(count, 0)

  def progress(
    self, position: dict[str, Any], pace: float | None
  ) -> tuple[float, float]:
    """(origin, slope): update n is made at the part origin + slope * n."""
    planned = self._planned(position)
    if self._length.counts_updates:
      return 0.0, 1.0 / planned
    self.mark(position)
    slope = (pace or 0.0) / planned
    part = self._spent(position) / planned
    return part - slope * position["update"], slope

  def _planned(self, position):
    return position["planned"][position["stage"]]

  def _spent(self, position):
    """Of the stage, in the unit of the plan."""
    if self._length.counts_updates:
      return position["update"]
    return position["spent"][position["stage"]]
