"""What the devices of a compiled program send each other, from its HLO text."""

import collections
import dataclasses
import re

_KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)

# name = type kind(operands), attributes. A type has no "=".
_INSTRUCTION = re.compile(
  rf"^\s*(?:ROOT )?%?[\w.-]+ = ([^=]+?) ({'|'.join(_KINDS)})(-start)?\(",
)
# %name (parameters) -> type {
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)"
  r"=%?([\w.-]+)"
)
_CALLED_LIST = re.compile(
  r"(?:branch_computations|called_computations|calls)=\{([^}]*)\}"
)
_LOOP = re.compile(r" while\(")
# These name the computation that async-start called, too.
_CONTINUED = re.compile(r" async-(?:update|done)\(")
_TRIPS = re.compile(r"known_trip_count\D*(\d+)")
# In long tuples, such as /*index=5*/.
_COMMENT = re.compile(r"/\*.*?\*/")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_GROUPS_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_GROUPS_LIST = re.compile(r"replica_groups=\{\{([0-9,]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of a kind with groups of a size, in one run of a program.

  Attributes:
    kind: such as "all-reduce".
    group: devices that take part in one; 0 where the text does not say.
    count: how often; loops whose number of rounds is known count each round.
    payload_bytes: of the larger side, operand or result, summed over all.
  """

  kind: str
  group: int
  count: int
  payload_bytes: float

  @property
  def sent_bytes(self) -> float:
    """What one device sends at least, with a ring over the group."""
    if self.kind in ("collective-permute", "collective-broadcast"):
      return self.payload_bytes
    passes = 2.0 if self.kind == "all-reduce" else 1.0
    share = 1.0 - 1.0 / self.group if self.group else 1.0
    return passes * share * self.payload_bytes


def parse(text: str, num_devices: int) -> list[Collective]:
  """Finds the collectives of a compiled program.

  Args:
    text: HLO, as from `jax.stages.Compiled.as_text`.
    num_devices: the size of a group where the text names none.

  Returns:
    Collectives, most bytes first.
  """
  own, calls, entry = _read(text, num_devices)
  totals: dict[str, collections.Counter] = {}

  def total(name):
    if name not in totals:
      # Counters of (kind, group, "count" or "bytes").
      totals[name] = collections.Counter(own.get(name, {}))
      for callee, times in calls.get(name, ()):
        for key, value in total(callee).items():
          totals[name][key] += times * value
    return totals[name]

  found = total(entry)
  return sorted(
    (
      Collective(kind, group, count, found[kind, group, "bytes"])
      for (kind, group, what), count in found.items()
      if what == "count"
    ),
    key=lambda c: (-c.payload_bytes, c.kind, c.group),
  )


def _read(text, num_devices):
  """(computation > counters of its own, computation > calls, entry's name)."""
  own: dict[str, collections.Counter] = {}
  calls: dict[str, list[tuple[str, int]]] = {}
  entry = current = ""
  for line in text.splitlines():
    if " = " not in line[:200]:
      header = _COMPUTATION.match(line)
      if header:
        current = header.group(2)
        entry = current if header.group(1) else entry
        own[current], calls[current] = collections.Counter(), []
      continue
    if not _CONTINUED.search(line):
      trips = _TRIPS.search(line) if _LOOP.search(line) else None
      times = int(trips.group(1)) if trips else 1
      names = _CALLED.findall(line)
      for group in _CALLED_LIST.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",")]
      calls[current] += [(name, times) for name in names if name]
    found = _INSTRUCTION.match(_COMMENT.sub("", line))
    if found:
      kind, group = found.group(2), _group(line, num_devices)
      size = _bytes(found.group(1), kind, bool(found.group(3)))
      if kind == "reduce-scatter":
        size *= group  # The operand is the larger side.
      own[current][kind, group, "count"] += 1
      own[current][kind, group, "bytes"] += size
  return own, calls, entry


def _group(line, num_devices):
  iota = _GROUPS_IOTA.search(line)
  if iota:
    return int(iota.group(1))
  listed = _GROUPS_LIST.search(line)
  if listed:
    return len(listed.group(1).split(","))
  return num_devices


def _bytes(result: str, kind: str, starts: bool) -> float:
  """Bytes of an instruction's result."""
  sizes = [_size(*array) for array in _ARRAY.findall(result)]
  # The start of an asynchronous one yields its operand, its result and then
  # some numbers for itself; that of an all-reduce its result alone.
  if starts and kind != "all-reduce":
    return max(sizes, default=0.0)
  return sum(sizes)


def _size(dtype: str, dimensions: str) -> float:
  bits = re.search(r"\d+", dtype)
  size = int(bits.group()) / 8 if bits else 1.0  # pred: a byte.
  for side in filter(None, dimensions.split(",")):
    size *= int(side)
  return size
