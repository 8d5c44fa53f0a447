"""One range-coded stream of integers under integer frequency tables.

The coder is constriction's: 64 bits of state, words of 32 bits, probabilities
of 24 bits. Symbols that share a table are coded in one call, so that a group is
coded table by table, in ascending order of tables and, within a table, in the
order given. The escapes of a group follow it: whether each lies below or above
its table, then how far outside, as Elias-gamma codes.

The stream's bytes are the digits, most significant first, of a fraction; zeros
at its end are left out and read back as zeros, but no more than eight bytes of
them: a stream is never much shorter than what it holds.
"""

import math
from collections.abc import Iterator

import constriction
import numpy as np

from egic_jax.bitstream import container
from egic_jax.bitstream import tables as tables_lib

_queue = constriction.stream.queue
_model = constriction.stream.model

_WORD_BYTES = 4
_STATE_BITS = 64
# Two words fill the decoder's state, and two more may be read past the end.
_PADDING_BYTES = 4 * _WORD_BYTES
# By how many bits symbols may outweigh their stream. An encoder leaves out less
# than 64; the rest keeps the rounding of a sum of logarithms from deciding.
_MISSING_BITS = 128

_INT32 = np.iinfo(np.int32)
# Escape distances d of int32 symbols satisfy 1 <= d < 2**32.
_ESCAPE_BITS = 32
_CHUNK_BITS = 16


class CodingTables:
  """Frequency tables in the form the coder wants them; immutable.

  Attributes:
    low: (K,) int64, first symbol that table k holds.
    high: (K,) int64, last symbol that table k holds.
    escapes: (K,) int32, the entry of table k that stands for any other.
    low32: `low` as int32.
  """

  def __init__(self, tables: tables_lib.SymbolTables):
    """Raises ValueError if the tables are not sound."""
    tables.check()
    self.low = tables.offsets.astype(np.int64)
    self.high = self.low + tables.lengths - 2
    parts = np.split(tables.frequencies, np.cumsum(tables.lengths)[:-1])
    self._models = [_exact_model(part) for part in parts]
    self.escapes = (tables.lengths - 1).astype(np.int32)
    self.low32 = self.low.astype(np.int32)
    ends = np.cumsum(tables.lengths)
    self._starts = (ends - tables.lengths).astype(np.int32)
    self._bits = tables_lib.TOTAL_BITS - np.log2(tables.frequencies)

  def __len__(self) -> int:
    return len(self._models)

  def model(self, k: int):
    return self._models[k]

  def bits(self, entries: np.ndarray, counts: np.ndarray) -> float:
    """Information of entries, counts[k] of table k one table after the other.

    Without what follows escapes.
    """
    places = np.repeat(self._starts, counts)
    places += entries
    return float(self._bits.take(places).sum())


class Encoder:
  """Collects symbols into one stream."""

  def __init__(self):
    self._encoder = _queue.RangeEncoder()

  @property
  def bits_spent(self) -> float:
    """Information coded so far, fractions of a bit included."""
    words, (_, width) = self._encoder.pos()
    return 8 * _WORD_BYTES * words + _STATE_BITS - math.log2(width)

  def encode(
    self, symbols: np.ndarray, table_index: np.ndarray, tables: CodingTables
  ) -> None:
    """Codes a group of symbols.

    Args:
      symbols: (N,) int32, any values; N may be 0.
      table_index: (N,) integers in [0, len(tables)).
      tables: what table_index refers to.

    Raises:
      ValueError: if dtype, shape or an index does not fit.
    """
    symbols = np.asarray(symbols)
    if symbols.dtype != np.int32 or symbols.ndim != 1:
      raise ValueError(
        f"symbols are {symbols.dtype} of shape {symbols.shape}; pass (N,) int32"
      )
    table_index = np.asarray(table_index)
    order, counts = _by_table(table_index, len(symbols), tables)
    symbols = symbols[order].astype(np.int64)
    low, high = np.repeat(tables.low, counts), np.repeat(tables.high, counts)
    escaped = (symbols < low) | (symbols > high)
    entries = np.where(escaped, high - low + 1, symbols - low).astype(np.int32)
    for k, start, stop in _groups(counts):
      self._encoder.encode(entries[start:stop], tables.model(k))
    if escaped.any():
      self._encode_escapes(symbols[escaped], low[escaped], high[escaped])

  def _encode_escapes(self, symbols, low, high) -> None:
    above = symbols > high
    distance = np.where(above, symbols - high, low - symbols)
    # frexp is exact here: distances have at most 32 of a double's 53 bits.
    exponents = np.frexp(distance.astype(np.float64))[1] - 1
    self._encoder.encode(above.astype(np.int32), _BIT)
    self._encoder.encode(exponents.astype(np.int32), _EXPONENT)
    for exponent in np.unique(exponents):
      mantissas = distance[exponents == exponent] - (1 << int(exponent))
      for shift, model in _mantissa_chunks(int(exponent)):
        chunk = (mantissas >> shift) & ((1 << _CHUNK_BITS) - 1)
        self._encoder.encode(chunk.astype(np.int32), model)

  def get_bytes(self) -> bytes:
    """The stream, in the fewest bytes that identify it."""
    words = self._encoder.get_compressed()
    if not len(words):
      return b""
    # Every number in [lower, lower + width) decodes alike. constriction settles
    # for one that takes a whole word; take the one of fewest bytes. The state
    # spans two words, from that word on.
    settled, (state_lower, width) = self._encoder.pos()
    digits = words[: settled + 1].astype(">u4").tobytes() + bytes(_WORD_BYTES)
    number = int.from_bytes(digits, "big")
    lower = number - (number - state_lower) % 2**_STATE_BITS
    for cut in range(_STATE_BITS - 8, -1, -8):
      shortest = -(-lower >> cut) << cut
      if shortest < lower + width:
        break
    data = shortest.to_bytes(len(digits), "big").rstrip(b"\0")
    return data.ljust(_WORD_BYTES * settled, b"\0")


class Decoder:
  """Reads back, group by group, what an Encoder was given.

  Any bytes decode to something, or raise BitstreamError; the work is bounded by
  the number of symbols asked for, and ends with the group in which the stream
  does. Integrity is the container's business.
  """

  def __init__(self, data: bytes):
    self._bits_left = 8.0 * len(data) + _MISSING_BITS
    padding = bytes(_PADDING_BYTES + -len(data) % _WORD_BYTES)
    words = np.frombuffer(data + padding, ">u4").astype(np.uint32)
    self._decoder = _queue.RangeDecoder(words)

  def decode(self, table_index: np.ndarray, tables: CodingTables) -> np.ndarray:
    """Decodes as many symbols as there are indices.

    Args:
      table_index: (N,) integers in [0, len(tables)), as given to the encoder.
      tables: what table_index refers to.

    Returns:
      (N,) int32.

    Raises:
      BitstreamError: if the stream holds no such symbols.
      ValueError: if an index does not fit.
    """
    table_index = np.asarray(table_index)
    order, counts = _by_table(table_index, table_index.size, tables)
    entries = np.empty(table_index.size, np.int32)
    for k, start, stop in _groups(counts):
      entries[start:stop] = self._decode(tables.model(k), stop - start)
    self._bits_left -= tables.bits(entries, counts)
    if self._bits_left < 0:
      raise container.BitstreamError(
        "the payload is damaged: it ends before its symbols do"
      )
    escaped = np.flatnonzero(entries == np.repeat(tables.escapes, counts))
    entries += np.repeat(tables.low32, counts)
    symbols = np.empty(table_index.size, np.int32)
    symbols[order] = entries
    if escaped.size:
      index = table_index[order[escaped]]
      symbols[order[escaped]] = self._decode_escapes(
        tables.low[index], tables.high[index]
      )
    return symbols

  def _decode_escapes(self, low, high) -> np.ndarray:
    above = self._decode(_BIT, len(low)).astype(bool)
    exponents = self._decode(_EXPONENT, len(low))
    distance = np.ones(len(low), np.int64) << exponents.astype(np.int64)
    for exponent in np.unique(exponents):
      chosen = exponents == exponent
      count = int(np.count_nonzero(chosen))
      for shift, model in _mantissa_chunks(int(exponent)):
        chunk = self._decode(model, count).astype(np.int64)
        distance[chosen] += chunk << shift
    values = np.where(above, high + distance, low - distance)
    if values.min() < _INT32.min or values.max() > _INT32.max:
      raise container.BitstreamError(
        "the payload is damaged: it holds a symbol of more than 32 bits"
      )
    return values

  def _decode(self, model, count: int) -> np.ndarray:
    try:
      return self._decoder.decode(model, int(count))
    except (KeyboardInterrupt, SystemExit, MemoryError):
      raise
    # constriction reports bad data by AssertionError or KeyError, and its
    # panics do not derive from Exception.
    except BaseException as error:
      raise container.BitstreamError(
        "the payload is damaged: it is not a stream of this model"
      ) from error


def _exact_model(frequencies: np.ndarray):
  """A model with exactly these frequencies out of 2**24.

  constriction gives each entry 1 and shares out what is left of 2**24 in
  proportion; less one each, the frequencies sum to what is left, are scaled by
  exactly 1.0, and every step is an integer that float64 holds.
  """
  return _model.Categorical(frequencies.astype(np.float64) - 1.0, perfect=False)


def _by_table(table_index, count: int, tables: CodingTables):
  """Returns the order that sorts by table, and (K,) symbols of each."""
  if table_index.shape != (count,) or (
    count and not np.issubdtype(table_index.dtype, np.integer)
  ):
    raise ValueError(
      f"table_index is {table_index.dtype} of shape {table_index.shape}; pass"
      f" ({count},) integers"
    )
  if count and not 0 <= table_index.min() <= table_index.max() < len(tables):
    raise ValueError(
      f"table_index spans [{table_index.min()}, {table_index.max()}]; there"
      f" are {len(tables)} tables"
    )
  # NumPy sorts integers of 8 and 16 bits by radix, several times faster.
  small = table_index.astype(np.min_scalar_type(max(0, len(tables) - 1)))
  order = np.argsort(small, kind="stable")
  # np.bincount would widen every index first.
  every = np.arange(len(tables), dtype=small.dtype)
  ends = np.searchsorted(small.take(order), every, side="right")
  return order, np.diff(ends, prepend=0)


def _groups(counts: np.ndarray) -> Iterator[tuple[int, int, int]]:
  """Yields (table, start, stop) of tables that have symbols."""
  stops = np.cumsum(counts)
  for k in np.flatnonzero(counts):
    yield k, stops[k] - counts[k], stops[k]


def _mantissa_chunks(exponent: int):
  """Yields (shift, uniform model), most significant chunk first."""
  bits = exponent
  if bits > _CHUNK_BITS:
    yield _CHUNK_BITS, _model.Uniform(1 << (bits - _CHUNK_BITS))
    bits = _CHUNK_BITS
  if bits:
    yield 0, _model.Uniform(1 << bits)


def _elias_gamma_frequencies() -> np.ndarray:
  """2**-(n + 1) for an exponent of n, as far as 24 bits go."""
  frequencies = np.maximum(
    1, tables_lib.TOTAL >> np.arange(1, _ESCAPE_BITS + 1)
  )
  frequencies[0] += tables_lib.TOTAL - frequencies.sum()
  return frequencies


_BIT = _model.Uniform(2)
_EXPONENT = _exact_model(_elias_gamma_frequencies())
