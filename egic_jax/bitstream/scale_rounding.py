"""Scale indices that two machines round alike.

The table under which a symbol is coded is its real-valued scale index, rounded.
Two machines compute indices that differ by some 1e-5, and where one lies that
close to a rounding boundary they may choose different tables: everything after
that symbol is lost. (Balle, Johnston, Minnen, Integer Networks for Data
Compression with Latent-Variable Models, ICLR 2019, describe the problem; Tian et
al., Effortless Cross-Platform Video Codec, AAAI 2023, send the places of such
elements.)

Here the boundaries give way instead. The elements of a slice are cut into groups,
and each group adds to its indices, before they are rounded, the first shift of

    0, +u, -u, +2u, -2u, ...    u = 2 * MARGIN

that leaves none of them within MARGIN of a boundary. Its place in this sequence
goes into the stream: about two bits for every element that lies close. A decoder
whose indices deviate by less than MARGIN then rounds every one of them to the
same table.
"""

import numpy as np

from egic_jax.bitstream import container, range_coder
from egic_jax.bitstream import tables as tables_lib
from egic_jax.entropy import gaussian

# Deviations of a scale index below this do no harm; the cost is proportional to
# it.
MARGIN = 2.0**-12
_UNIT = 2 * MARGIN
# Shifts of a quarter of a step of the scale table at most, so that symbols are
# still coded under nearly the best table.
_MAX_STEPS = int(0.25 / _UNIT)
NUM_SHIFTS = 2 * _MAX_STEPS + 1
# Elements within MARGIN of a boundary, of a group whose indices are spread
# evenly. More would cost less, but leave groups without a shift.
_CONFLICTS = 4


def num_groups(size: int) -> int:
  """Groups that a slice of `size` elements is cut into: a power of two."""
  wanted = size * _UNIT / _CONFLICTS
  return 1 << max(0, int(np.ceil(wanted)) - 1).bit_length()


def choose_shifts(scale_index: np.ndarray) -> np.ndarray:
  """Shifts that keep indices away from rounding boundaries.

  Args:
    scale_index: (N,) float32, finite.

  Returns:
    (num_groups(N),) int32, places in the sequence 0, +u, -u, ...: the first for
    each group that leaves no index within MARGIN of a boundary. Should there be
    none, the one that leaves the fewest.
  """
  groups = num_groups(scale_index.size)
  element, choice = _conflicts(scale_index.astype(np.float64))
  group = element * groups // max(1, scale_index.size)
  count = np.bincount(
    group * NUM_SHIFTS + choice, minlength=groups * NUM_SHIFTS
  )
  return count.reshape(groups, NUM_SHIFTS).argmin(axis=1).astype(np.int32)


def round_indices(scale_index: np.ndarray, shifts: np.ndarray) -> np.ndarray:
  """Real-valued scale indices to tables.

  Args:
    scale_index: (N,) float32, finite.
    shifts: (num_groups(N),) integers, as `choose_shifts` returns.

  Returns:
    (N,) int32 in [0, 63].
  """
  # Element e is in group e * groups // size: where do groups begin?
  groups = np.arange(len(shifts) + 1, dtype=np.int64)
  starts = -(-groups * scale_index.size // len(shifts))
  steps = (shifts.astype(np.int64) + 1) // 2
  shift = np.where(shifts % 2 == 1, steps, -steps) * _UNIT
  # Indices and shifts are binary fractions: the sums are exact in float64.
  table = np.repeat(shift + 0.5, np.diff(starts))
  table += scale_index
  np.floor(table, out=table)
  np.clip(table, 0, gaussian.NUM_SCALES - 1, out=table)
  return table.astype(np.int32)


def _conflicts(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Which shifts bring which elements to a boundary or within MARGIN of it.

  Returns:
    element, choice: (M,) int64 each, one entry a conflict.
  """
  # Boundaries are 0.5, 1.5, ... 62.5; beyond, indices are clipped. Shifts reach
  # the nearest one only. Most indices lie far below the first.
  element = np.flatnonzero(index >= 0.25 - _UNIT)
  index = index[element]
  boundary = np.clip(np.floor(index) + 0.5, 0.5, gaussian.NUM_SCALES - 1.5)
  within = np.flatnonzero(np.abs(boundary - index) <= 0.25 + _UNIT)
  element = element[within]
  distance = (boundary - index)[within] / _UNIT
  below = np.floor(distance)
  elements, choices = [], []
  for steps in (below, below + 1):
    # MARGIN is half a unit; halfway between two shifts, both are too near.
    near = (np.abs(distance - steps) <= 0.5) & (np.abs(steps) <= _MAX_STEPS)
    signed = steps[near].astype(np.int64)
    elements.append(element[near])
    choices.append(np.where(signed > 0, 2 * signed - 1, -2 * signed))
  return np.concatenate(elements), np.concatenate(choices)


class ShiftCoder:
  """Writes or reads the shifts of slice after slice of one tile.

  Shifts follow a geometric distribution, whose mean is taken from those of the
  slices before. The arithmetic is of integers only.
  """

  def __init__(self):
    self._sum, self._count = 1, 1

  def encode(self, encoder: range_coder.Encoder, shifts: np.ndarray) -> None:
    """Appends the shifts of a slice to a stream."""
    encoder.encode(shifts, self._table(len(shifts)), _GEOMETRIC)
    self._learn(shifts)

  def decode(self, decoder: range_coder.Decoder, size: int) -> np.ndarray:
    """Reads the shifts of a slice of `size` elements.

    Raises:
      BitstreamError: if the stream holds no such shifts.
    """
    shifts = decoder.decode(self._table(num_groups(size)), _GEOMETRIC)
    if shifts.size and not 0 <= shifts.min() <= shifts.max() < NUM_SHIFTS:
      raise container.BitstreamError(
        "the payload is damaged: it holds a shift below 0 or beyond the last"
      )
    self._learn(shifts)
    return shifts

  def _table(self, groups: int) -> np.ndarray:
    mean = self._sum // self._count
    table = min(mean.bit_length(), len(_GEOMETRIC) - 1)
    return np.full(groups, table, np.int32)

  def _learn(self, shifts: np.ndarray) -> None:
    self._sum += int(shifts.sum())
    self._count += len(shifts)


def geometric_tables() -> tables_lib.SymbolTables:
  """Geometric distributions of 0, 1, 2, ...; table k expects 3 * 2**k / 4.

  Built of integers alone. The rarest one or two in ten thousand are escapes.
  """
  frequencies, lengths = [], []
  for k in range(10):
    # An expectation of m: each number takes a share of 1 / (m + 1) of what the
    # smaller ones have left.
    share, whole = 4, 3 * 2**k + 4
    length = 9 * whole // share
    left = tables_lib.TOTAL
    for _ in range(length):
      frequencies.append(left * share // whole)
      left -= frequencies[-1]
    frequencies.append(left)
    lengths.append(length + 1)
  return tables_lib.SymbolTables(
    np.asarray(frequencies, np.int32),
    np.asarray(lengths, np.int32),
    np.zeros(len(lengths), np.int32),
  )


_GEOMETRIC = range_coder.CodingTables(geometric_tables())
