"""What an encoder leaves out: ones under the smallest scales."""

import numpy as np
import pytest

from egic_jax.bitstream import latents, range_coder, tables

_SIZE = (12, 16, 8)
_CODED = (11, 13)


@pytest.fixture(scope="module")
def coding_tables():
  prior = tables.SymbolTables(
    np.full(4, tables.TOTAL // 2, np.int32),
    np.full(2, 2, np.int32),
    np.zeros(2, np.int32),
  )
  gaussians = tables.gaussian_tables()
  return [range_coder.CodingTables(one) for one in (prior, gaussians)]


@pytest.fixture
def tile(coding_tables):
  """(writer, makes a reader of its bytes)."""
  z = np.zeros((3, 4, 2), np.int32)
  writer = latents._TileWriter(*coding_tables, z, _CODED)

  def reader(data):
    return latents._TileReader(*coding_tables, data, z.shape[:2], _CODED)

  return writer, reader


def _slice(seed=0, high=8):
  """Symbols that are 0 outside what is coded, and the tables they are under."""
  rng = np.random.default_rng(seed)
  symbols = rng.integers(-2, 3, _SIZE).astype(np.int32)
  symbols[_CODED[0] :] = symbols[:, _CODED[1] :] = 0
  return symbols, rng.integers(0, high, _SIZE)


def test_ones_under_the_smallest_scales_become_zero(tile):
  writer, reader = tile
  symbols, table = _slice()
  expected = symbols.copy()
  for place in np.ndindex(_SIZE):
    if table[place] <= 2 and symbols[place] in (-1, 1):
      expected[place] = 0
  assert np.count_nonzero(expected != symbols) > 100
  writer.quantize_slice(symbols, table.astype(np.float32))
  np.testing.assert_array_equal(symbols, expected)
  payload = writer.finish()
  np.testing.assert_array_equal(payload.symbols.y[0][0], expected)
  found = reader(payload.data).read_slice(table.astype(np.float32))
  np.testing.assert_array_equal(found, expected)


def test_symbols_that_are_measured_stay(tile):
  writer, reader = tile
  symbols, table = _slice()
  before = symbols.copy()
  writer.write_slice(symbols, table.astype(np.float32))
  np.testing.assert_array_equal(symbols, before)
  found = reader(writer.finish().data).read_slice(table.astype(np.float32))
  np.testing.assert_array_equal(found, before)


def test_what_is_left_out_is_not_coded(tile, monkeypatch):
  """Ones alone: nothing under the smallest scales goes through the coder."""
  writer, _ = tile
  symbols, table = _slice(high=6)
  symbols = np.sign(symbols)
  asked = []
  encode = range_coder.Encoder.encode

  def recording(self, symbols, table_index, coding_tables):
    asked.append((np.asarray(table_index), coding_tables))
    encode(self, symbols, table_index, coding_tables)

  monkeypatch.setattr(range_coder.Encoder, "encode", recording)
  writer.quantize_slice(symbols, table.astype(np.float32))
  index, coding_tables = asked[-1]
  assert len(coding_tables) == 64
  assert index.min() == 3
  inside = table[: _CODED[0], : _CODED[1]]
  assert len(index) == np.count_nonzero(inside >= 3)


def test_files_hold_the_picture_that_the_encoder_saw(
  variable_codec, picture, monkeypatch
):
  """Slices are predicted from what was left, by encoder and decoder alike."""
  image = picture(128, 100)
  encoded = variable_codec.encode_with_parts(image, 4.0)
  decoded = variable_codec.decode_symbols(encoded.data)
  for ours, theirs in zip(encoded.symbols.y, decoded.y, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  monkeypatch.setattr(latents, "_QUIET_TABLES", 0)
  everything = variable_codec.encode_with_parts(image, 4.0)
  assert _not_zero(encoded.symbols) < _not_zero(everything.symbols)


def _not_zero(symbols):
  return sum(np.count_nonzero(one) for one in symbols.y)
