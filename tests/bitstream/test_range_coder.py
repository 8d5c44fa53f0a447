import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from egic_jax.bitstream import container, range_coder, tables

_GAUSSIAN = range_coder.CodingTables(tables.gaussian_tables())
_ONE_TABLE = range_coder.CodingTables(
  tables.SymbolTables(
    frequencies=np.array([5, 2**24 - 6, 1], np.int32),
    lengths=np.array([3], np.int32),
    offsets=np.array([-7], np.int32),
  )
)
_INT32 = st.one_of(
  st.integers(-3, 3),
  st.integers(-2000, 2000),
  st.integers(-(2**31), 2**31 - 1),
  st.sampled_from([-(2**31), -(2**31) + 1, 2**31 - 1, 2**30, -(2**30)]),
)


def _round_trip(groups):
  encoder = range_coder.Encoder()
  for symbols, table_index, coding_tables in groups:
    encoder.encode(symbols, table_index, coding_tables)
  data = encoder.get_bytes()
  decoder = range_coder.Decoder(data)
  for symbols, table_index, coding_tables in groups:
    decoded = decoder.decode(table_index, coding_tables)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)
  return data, encoder


@hypothesis.settings(deadline=None, max_examples=200)
@hypothesis.given(
  st.lists(
    st.lists(st.tuples(_INT32, st.integers(0, 63)), max_size=30), max_size=4
  )
)
def test_any_int32_comes_back(groups):
  groups = [
    (
      np.array([s for s, _ in group], np.int32),
      np.array([k for _, k in group], np.int32),
      _GAUSSIAN,
    )
    for group in groups
  ]
  data, encoder = _round_trip(groups)
  # A number of 8 n bits lies in every interval of width 2**-8n or more.
  assert len(data) <= math.ceil(encoder.bits_spent / 8) + 1


@pytest.mark.parametrize("value", [-(2**31), -8, -7, -6, -5, 2**31 - 1])
def test_single_table_and_the_ends_of_int32(value):
  symbols = np.array([-7, value, -6, value], np.int32)
  _round_trip([(symbols, np.zeros(4, np.uint8), _ONE_TABLE)])


def test_escape_just_outside_every_table():
  index = np.tile(np.arange(64), 2)
  symbols = np.concatenate([_GAUSSIAN.low - 1, _GAUSSIAN.high + 1])
  _round_trip([(symbols.astype(np.int32), index, _GAUSSIAN)])


def test_nothing_takes_no_bytes():
  empty = (np.zeros(0, np.int32), np.zeros(0, np.int32), _GAUSSIAN)
  data, encoder = _round_trip([empty, empty])
  assert data == b""
  assert encoder.bits_spent == pytest.approx(0)


def test_groups_may_be_empty_between_others():
  some = (np.array([1, -2], np.int32), np.array([30, 3]), _GAUSSIAN)
  empty = (np.zeros(0, np.int32), np.zeros(0, np.int32), _ONE_TABLE)
  other = (np.array([-7], np.int32), np.array([0]), _ONE_TABLE)
  _round_trip([empty, some, empty, other, empty])


def test_size_is_the_entropy_of_the_integer_tables():
  symbol_tables = tables.gaussian_tables()
  rng = np.random.default_rng(0)
  index = rng.integers(0, 64, 20000)
  starts = np.cumsum(symbol_tables.lengths) - symbol_tables.lengths
  symbols = np.empty(len(index), np.int32)
  bits = 0.0
  for k in range(64):
    p = symbol_tables[k][:-1] / symbol_tables[k][:-1].sum()
    entries = rng.choice(len(p), np.count_nonzero(index == k), p=p)
    symbols[index == k] = entries + symbol_tables.offsets[k]
    frequencies = symbol_tables.frequencies[starts[k] + entries]
    bits += np.sum(24 - np.log2(frequencies))
  data, encoder = _round_trip([(symbols, index, _GAUSSIAN)])
  assert 8 * len(data) == pytest.approx(bits, rel=1e-4, abs=8)
  assert encoder.bits_spent == pytest.approx(bits, rel=1e-4)


def _reference_stream(symbols, index, symbol_tables):
  """The stream by the book: integer cumulative frequencies, no escapes."""
  low, width, words = 0, 2**64 - 1, 0
  for k in range(len(symbol_tables)):
    frequencies = symbol_tables[k].astype(np.int64)
    ends = np.cumsum(frequencies)
    for symbol in symbols[index == k]:
      entry = symbol - symbol_tables.offsets[k]
      unit = width >> 24
      low += unit * int(ends[entry] - frequencies[entry])
      width = unit * int(frequencies[entry])
      if width < 2**32:
        low, width, words = low << 32, width << 32, words + 1
  for cut in range(56, -1, -8):
    number = -(-low >> cut) << cut
    if number < low + width:
      return number.to_bytes(4 * (words + 2), "big").rstrip(b"\0")


def test_bytes_follow_from_the_integers_alone():
  # Were constriction's probabilities not exactly our integers, or to change in
  # a later release, files could not be read by the format's description.
  symbol_tables = tables.gaussian_tables()
  rng = np.random.default_rng(1)
  for count in (1, 2, 3, 50, 4000):
    index = rng.integers(0, 64, count)
    low, high = _GAUSSIAN.low[index], _GAUSSIAN.high[index]
    # Rare entries as often as common ones: they show inexact probabilities.
    symbols = rng.integers(low, high + 1).astype(np.int32)
    data, _ = _round_trip([(symbols, index, _GAUSSIAN)])
    assert data == _reference_stream(symbols, index, symbol_tables)


def test_known_bytes():
  symbols = np.array([0, 1, -1, 5, 300, -(2**31), 2**31 - 1, 9], np.int32)
  index = np.array([63, 20, 20, 40, 0, 10, 10, 0])
  encoder = range_coder.Encoder()
  encoder.encode(symbols, index, _GAUSSIAN)
  assert encoder.get_bytes().hex() == (
    "fffffffffe000000ffffffffb608d2706679c482ff0daf5fdaffffffc56025"
  )


def test_shortest_stream_is_not_a_whole_number_of_words():
  lengths = set()
  for value in range(-8, 9):
    data, _ = _round_trip(
      [(np.array([value], np.int32), np.array([25]), _GAUSSIAN)]
    )
    lengths.add(len(data))
  assert lengths <= {1, 2, 3} and 1 in lengths


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(st.binary(max_size=64), st.integers(0, 2**32 - 1))
def test_garbage_decodes_or_raises(data, seed):
  rng = np.random.default_rng(seed)
  decoder = range_coder.Decoder(data)
  try:
    for coding_tables in (_GAUSSIAN, _ONE_TABLE):
      index = rng.integers(0, len(coding_tables), 200)
      symbols = decoder.decode(index, coding_tables)
      assert symbols.dtype == np.int32 and symbols.shape == (200,)
  except container.BitstreamError as error:
    assert "\n" not in str(error)


def test_symbol_beyond_32_bits_raises():
  # An escape of distance 2**32 - 1 above a table that ends at 8.
  encoder = range_coder.Encoder()
  symbol = np.array([2**31 - 1], np.int32)
  shifted = range_coder.CodingTables(
    tables.SymbolTables(
      frequencies=np.array([1, 2**24 - 1], np.int32),
      lengths=np.array([2], np.int32),
      offsets=np.array([-(2**30)], np.int32),
    )
  )
  here = range_coder.CodingTables(
    tables.SymbolTables(
      frequencies=np.array([1, 2**24 - 1], np.int32),
      lengths=np.array([2], np.int32),
      offsets=np.array([0], np.int32),
    )
  )
  encoder.encode(symbol, np.array([0]), shifted)
  decoder = range_coder.Decoder(encoder.get_bytes())
  with pytest.raises(container.BitstreamError, match="32 bits"):
    decoder.decode(np.array([0]), here)


@pytest.mark.parametrize("failure", [AssertionError, KeyError, BaseException])
def test_failures_of_the_coder_become_bitstream_errors(failure):
  class Broken:
    def decode(self, model, count):
      raise failure("anything")

  decoder = range_coder.Decoder(b"abc")
  decoder._decoder = Broken()
  with pytest.raises(container.BitstreamError, match="damaged"):
    decoder.decode(np.array([0]), _ONE_TABLE)


def test_wrong_arguments_are_named():
  encoder = range_coder.Encoder()
  with pytest.raises(ValueError, match="symbols are int64"):
    encoder.encode(np.array([1]), np.array([0]), _ONE_TABLE)
  with pytest.raises(ValueError, match="table_index is float64"):
    encoder.encode(np.array([1], np.int32), np.array([0.0]), _ONE_TABLE)
  with pytest.raises(ValueError, match="there are 1 tables"):
    encoder.encode(np.array([1], np.int32), np.array([1]), _ONE_TABLE)
  with pytest.raises(ValueError, match="there are 1 tables"):
    range_coder.Decoder(b"").decode(np.array([-1]), _ONE_TABLE)
