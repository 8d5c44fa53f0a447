"""Integer frequency tables for the range coder, derived from parameters once.

A table lists how often, out of 2**24, each symbol of a range of consecutive
integers occurs, and last how often a symbol lies outside of it (the escape).
Floating point decides the frequencies once, when a model is built, in float64;
from then on the integers themselves are the model's, are stored with it, and
are all that encoder and decoder look at. No file ever depends on the erf of
the machine that reads it.
"""

import dataclasses
import math

import numpy as np

from egic_jax.entropy import gaussian

TOTAL_BITS = 24
TOTAL = 1 << TOTAL_BITS
MAX_OFFSET = 2**30

# Beyond six standard deviations a symbol is rarer than one in 2**24. Small
# scales get a wider table than that: latents have heavier tails than the
# model, and a frequency of 1 is far cheaper than an escape.
_GAUSSIAN_SIGMAS = 6.0
_GAUSSIAN_MIN_EXTENT = 8

_PRIOR_TAIL_LOGIT = 22 * math.log(2)  # A mass of 2**-22 on either side.
_PRIOR_MAX_EXTENT = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class SymbolTables:
  """Frequency tables of several alphabets, one after the other.

  Attributes:
    frequencies: (sum of lengths,) int32, each at least 1; table k's part sums
      to 2**24. The last entry of a table is its escape.
    lengths: (K,) int32, entries of each table with its escape, at least 2.
    offsets: (K,) int32, the symbol that each table's first entry stands for.
  """

  frequencies: np.ndarray
  lengths: np.ndarray
  offsets: np.ndarray

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, k: int) -> np.ndarray:
    """Frequencies of table k: (lengths[k],) int32."""
    stop = int(np.sum(self.lengths[: k + 1], dtype=np.int64))
    return self.frequencies[stop - int(self.lengths[k]) : stop]

  def check(self) -> None:
    """Raises ValueError, in one line, if the coder could not work with these."""
    for field in dataclasses.fields(self):
      array = getattr(self, field.name)
      if array.dtype != np.int32 or array.ndim != 1 or not array.size:
        raise ValueError(
          f"{field.name} is {array.dtype} of shape {array.shape}; it must be"
          " one-dimensional int32 and not empty"
        )
    if len(self.offsets) != len(self.lengths):
      raise ValueError(
        f"{len(self.offsets)} offsets for {len(self.lengths)} tables"
      )
    if self.lengths.min() < 2:
      raise ValueError("a table has fewer than two entries")
    if np.sum(self.lengths, dtype=np.int64) != len(self.frequencies):
      raise ValueError(
        f"the lengths do not add up to {len(self.frequencies)} frequencies"
      )
    if self.frequencies.min() < 1:
      raise ValueError("a frequency is less than 1")
    starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
    totals = np.add.reduceat(self.frequencies.astype(np.int64), starts)
    if np.any(totals != TOTAL):
      k = int(np.argmax(totals != TOTAL))
      raise ValueError(f"table {k} sums to {totals[k]} instead of {TOTAL}")
    if np.abs(self.offsets.astype(np.int64)).max() > MAX_OFFSET:
      raise ValueError(f"an offset lies outside +-{MAX_OFFSET}")


def gaussian_tables() -> SymbolTables:
  """Tables of y - mean, one for each of the 64 scales.

  Zero-mean Gaussians convolved with U(-1/2, 1/2), symbols -K to K. These do not
  depend on any parameter.
  """
  import scipy.special  # A tenth of a second, for who builds a model only.

  probabilities, offsets = [], []
  for sigma in gaussian.scale_table():
    extent = max(_GAUSSIAN_MIN_EXTENT, math.ceil(_GAUSSIAN_SIGMAS * sigma))
    distance = np.arange(extent + 1, dtype=np.float64)
    half = scipy.special.ndtr((0.5 - distance) / sigma)
    half -= scipy.special.ndtr((-0.5 - distance) / sigma)
    escape = 2 * scipy.special.ndtr((-0.5 - extent) / sigma)
    probabilities.append(np.concatenate([half[:0:-1], half, [escape]]))
    offsets.append(-extent)
  return _assemble(probabilities, offsets)


def prior_tables(prior: dict[str, np.ndarray]) -> SymbolTables:
  """Tables of z, one a channel, from the deep factorised prior.

  Args:
    prior: matrices_k (C, out, in), biases_k and factors_k (C, out, 1), as in
      `egic_jax.entropy.factorized`.

  Raises:
    ValueError: if the prior holds a value that is not finite.
  """
  import scipy.special

  prior = {name: np.asarray(value, np.float64) for name, value in prior.items()}
  for name, value in prior.items():
    if not np.all(np.isfinite(value)):
      raise ValueError(f"prior {name} holds a value that is not finite")
  channels = prior["matrices_0"].shape[0]
  limit = np.full(channels, MAX_OFFSET // 2)
  center = _first_above(prior, 0.0, -limit, limit)
  low = _first_above(
    prior, -_PRIOR_TAIL_LOGIT, center - _PRIOR_MAX_EXTENT, center
  )
  high = _first_above(
    prior, _PRIOR_TAIL_LOGIT, center, center + _PRIOR_MAX_EXTENT
  )
  # Every channel is evaluated over as many symbols as the widest one needs.
  symbols = low + np.arange(np.max(high - low) + 1)[:, None]
  upper = cdf_logits(prior, symbols + 0.5)
  lower = cdf_logits(prior, symbols - 0.5)
  # Doubles resolve 2**-53 of a difference of cdfs, tables 2**-24.
  expit = scipy.special.expit
  mass = expit(upper) - expit(lower)
  probabilities = []
  for c in range(channels):
    length = high[c] - low[c] + 1
    escape = expit(lower[0, c]) + expit(-upper[length - 1, c])
    probabilities.append(np.append(mass[:length, c], escape))
  return _assemble(probabilities, low)


def cdf_logits(prior: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
  """Logit of the cumulative density at x, in float64: (..., C) > (..., C).

  The equation is that of `egic_jax.entropy.factorized.cdf_logits`; jax would
  evaluate it in float32.
  """
  units = x[..., None, None]
  depth = sum(name.startswith("matrices_") for name in prior)
  for k in range(depth):
    matrix = np.logaddexp(0.0, prior[f"matrices_{k}"])
    units = matrix @ units + prior[f"biases_{k}"]
    if k < depth - 1:
      units += np.tanh(prior[f"factors_{k}"]) * np.tanh(units)
  return units[..., 0, 0]


def _first_above(
  prior: dict[str, np.ndarray],
  logit: float,
  low: np.ndarray,
  high: np.ndarray,
) -> np.ndarray:
  """First integer n of [low, high], by channel, with logit(cdf(n+1/2)) > logit.

  `high` where there is none.
  """
  low, high = low.copy(), high.copy()
  while np.any(low < high):
    middle = (low + high) // 2
    above = cdf_logits(prior, middle + 0.5) > logit
    high = np.where(above, middle, high)
    low = np.where(above, low, np.minimum(middle + 1, high))
  return low


def _assemble(probabilities: list[np.ndarray], offsets) -> SymbolTables:
  return SymbolTables(
    frequencies=np.concatenate([_frequencies(p) for p in probabilities]),
    lengths=np.asarray([len(p) for p in probabilities], np.int32),
    offsets=np.asarray(offsets, np.int32),
  )


def _frequencies(probabilities: np.ndarray) -> np.ndarray:
  """Integers of at least 1 that sum to 2**24, in proportion (largest remainder).

  Rounding and mending the sum at the mode would take up to half a frequency an
  entry from it, four per cent of the mode of the widest table.
  """
  shares = probabilities / probabilities.sum() * (TOTAL - len(probabilities))
  frequencies = np.floor(shares).astype(np.int64) + 1
  missing = TOTAL - int(frequencies.sum())
  by_remainder = np.argsort(np.floor(shares) - shares, kind="stable")
  frequencies[by_remainder[:missing]] += 1
  return frequencies.astype(np.int32)
