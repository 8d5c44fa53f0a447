"""Latents to a payload and back: the slice loop between model and range coder.

Encoder and decoder step through the same compiled programs at the same shapes:
hyper-synthesis of z_hat, then the slice loop, slice by slice. What is done
between programs (rounding, adding the mean) is NumPy's, once for both sides. On
one machine their results are equal bit for bit; on two, scale indices may differ
by as much as `scale_rounding` allows for. Should they differ by more, the
checksum over all symbols tells.

z is coded first, under one table a channel. Then each slice of y: how its scale
indices are rounded, the first table under which a symbol is not 0, and the
symbols under this table and later ones. Elements go row by row, column by
column, channel by channel, before the range coder groups them by table. Elements of
y that see nothing but padding are 0 and not coded.

What the first table saves is up to the encoder: of the elements that lie under
the smallest scales, at low rates more than half, one in some thousand is 1 or
-1, and a single one makes all of them be coded. It is taken for 0 (`_QUIET_TABLES`).
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from egic_jax.bitstream import (
  buckets,
  container,
  programs,
  range_coder,
  scale_rounding,
)
from egic_jax.bitstream import tables as tables_lib
from egic_jax.entropy import gaussian
from egic_jax.models import presets, slice_loop

# Of the tables, from the smallest scale of 0.11 on (the third has one of 0.14),
# those under which an encoder takes 1 and -1 for 0. BSDS500 pictures, shipped model,
# eight qualities: 0.2 % fewer bits at equal PSNR, and at the lower four of them
# 1.4 to 2.5 times fewer symbols to code. Five tables cost 0.05 % more than three.
_QUIET_TABLES = 3

# (slice, mean, scale index) to symbols; all (N, h, w, slice channels).
_SliceSymbols = Callable[[int, np.ndarray, np.ndarray], np.ndarray]

MISMATCH = (
  "the decoded symbols do not match the file's checksum: this machine's"
  " arithmetic differs from that of the one that made the file by more than"
  f" files tolerate ({scale_rounding.MARGIN:.1g} of a scale step); decode it"
  " where it was made"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Symbols:
  """The integers that an image, or a tile of one, becomes.

  Attributes:
    z: (1, H/64, W/64, hyper width) int32.
    y: one (1, H/16, W/16, slice channels) int32 a slice.
  """

  z: np.ndarray
  y: tuple[np.ndarray, ...]

  def checksum(self, start: int = 0) -> int:
    """CRC-32 of all symbols in coding order, as little-endian int32.

    Args:
      start: checksum of the tiles before.
    """
    for symbols in (self.z, *self.y):
      start = zlib.crc32(np.ascontiguousarray(symbols, "<i4"), start)
    return start


@dataclasses.dataclass(frozen=True, eq=False)
class Payload:
  """Coded symbols.

  Attributes:
    data: the range-coded stream.
    symbols: what it holds.
    z_bits: bits that z took, fractions included.
    y_bits: (slices,) float64, bits that each slice took, what says how its
      scale indices are rounded included.
    rounding_bits: those of y_bits that say how scale indices are rounded.
  """

  data: bytes
  symbols: Symbols
  z_bits: float
  y_bits: np.ndarray
  rounding_bits: float


class LatentCoder:
  """Codes the latents of tiles, any number of one size at a time.

  Tiles share the networks' calls and nothing else. Holds no state.
  """

  def __init__(
    self,
    config: presets.CodecConfig,
    codec_params: Mapping[str, Any],
    tables: Mapping[str, tables_lib.SymbolTables],
    networks: programs.Programs | None = None,
  ):
    """The arguments are as in `model_file.Model`; codec_params on the device.

    Args:
      networks: what to compute with instead of `programs.programs(config)`.
    """
    self._config = config
    self._params = codec_params
    self._prior = range_coder.CodingTables(tables["prior"])
    self._gaussian = range_coder.CodingTables(tables["gaussian"])
    self._programs = networks or programs.programs(config)

  def encode(
    self, y: np.ndarray, z: np.ndarray, coded: tuple[int, int]
  ) -> list[Payload]:
    """Rounds and codes latents.

    Args:
      y: (N, H/16, W/16, latent channels) float32, one entry a tile.
      z: (N, H/64, W/64, hyper width) float32.
      coded: rows and columns of y that the picture reaches. Beyond them lies
        nothing but padding: symbols there are 0 and cost nothing.

    Returns:
      One payload a tile.

    Raises:
      ValueError: if a latent or a parameter of its distribution is not finite.
    """
    z = _round_to_int32(z, "z")
    writers = [
      _TileWriter(self._prior, self._gaussian, tile, coded) for tile in z
    ]
    size = self._config.slice_channels

    def encode_slice(i, mean, scale_index):
      residual = y[..., i * size : (i + 1) * size] - mean
      symbols = _round_to_int32(residual, f"slice {i} of y")
      symbols[:, coded[0] :] = 0
      symbols[:, :, coded[1] :] = 0
      for writer, *tile in zip(writers, symbols, scale_index, strict=True):
        writer.quantize_slice(*tile)
      return symbols

    try:
      self._visit_slices(z, encode_slice)
    except _NotFiniteError as error:
      raise ValueError(f"{error}: the model is broken") from error
    return [writer.finish() for writer in writers]

  def decode(
    self,
    data: Sequence[bytes],
    z_size: tuple[int, int],
    coded: tuple[int, int],
  ) -> tuple[list[Symbols], np.ndarray]:
    """Decodes payloads of tiles of one size.

    Whether these are the symbols that were encoded is for the caller to check.

    Args:
      data: the range-coded stream of each tile.
      z_size: height and width of z.
      coded: as in `encode`.

    Returns:
      The symbols of each tile, and y_hat (N, H/16, W/16, latent channels).

    Raises:
      BitstreamError: if a stream is none of this model.
    """
    readers = [
      _TileReader(self._prior, self._gaussian, tile, z_size, coded)
      for tile in data
    ]

    def decode_slice(i, mean, scale_index):
      del i, mean
      return np.stack(
        [
          reader.read_slice(tile)
          for reader, tile in zip(readers, scale_index, strict=True)
        ]
      )

    z = np.stack([reader.z for reader in readers])
    try:
      y_hat = self._visit_slices(z, decode_slice)
    except _NotFiniteError as error:
      raise container.BitstreamError(MISMATCH) from error
    return [reader.symbols() for reader in readers], y_hat

  def measure(self, symbols: Symbols, coded: tuple[int, int]) -> Payload:
    """Codes a tile's symbols again: what each part of its payload takes."""
    writer = _TileWriter(self._prior, self._gaussian, symbols.z[0], coded)

    def encode_slice(i, mean, scale_index):
      del mean
      writer.write_slice(symbols.y[i][0], scale_index[0])
      return symbols.y[i]

    self._visit_slices(symbols.z, encode_slice)
    return writer.finish()

  def _visit_slices(
    self, z: np.ndarray, slice_symbols: _SliceSymbols
  ) -> np.ndarray:
    """From the symbols of z to y_hat, the same way for encoder and decoder."""
    scale = self._config.hyper_stride // self._config.latent_stride
    z_hat, valid = buckets.place(z.astype(np.float32), 1)
    inside = (slice(None), *(slice(scale * side) for side in z.shape[1:3]))
    on_host = jax.default_backend() == "cpu"
    on_device = []

    def slice_parameters(i, latent_means, latent_scales, support):
      if not on_host:
        # A slice travels to the device once, not with every later one again.
        on_device.extend(map(jax.device_put, support[len(on_device) :]))
        support = tuple(on_device)
      return self._programs.slice_parameters(
        i, self._params, latent_means, latent_scales, support, valid
      )

    def visit(i, mean, scale_index):
      mean, scale_index = jax.device_get((mean, scale_index))
      mean, scale_index = mean[inside], scale_index[inside]
      if not (np.isfinite(mean).all() and np.isfinite(scale_index).all()):
        raise _NotFiniteError(f"parameters of slice {i} are not finite")
      symbols = slice_symbols(i, mean, scale_index)
      return buckets.place(symbols.astype(np.float32) + mean, scale)[0]

    latent_means, latent_scales = self._programs.hyper_synthesis(
      self._params, z_hat, valid
    )
    y_hat = slice_loop.visit_slices(
      slice_parameters,
      visit,
      latent_means,
      latent_scales,
      self._config.num_slices,
    )
    return np.asarray(y_hat)[inside]


class _TileWriter:
  """One tile's stream as it is written, slice by slice."""

  def __init__(self, prior, gaussians, z: np.ndarray, coded: tuple[int, int]):
    self._gaussian = gaussians
    self._coded = tuple(slice(side) for side in coded)
    self._encoder = range_coder.Encoder()
    self._shifts = scale_rounding.ShiftCoder()
    self._z, self._slices = z, []
    self._encoder.encode(z.ravel(), _channels(z.shape), prior)
    self._ends = [self._encoder.bits_spent]
    self._rounding_bits = 0.0

  def quantize_slice(
    self, symbols: np.ndarray, scale_index: np.ndarray
  ) -> None:
    """Writes a slice, less what is not worth its bits: changes `symbols`.

    Both (h, w, slice channels).
    """
    table = self._write_tables(scale_index)
    inside = symbols[self._coded]
    quiet = table.reshape(inside.shape) < _QUIET_TABLES
    inside[quiet & (np.abs(inside) == 1)] = 0
    self._write_symbols(symbols, table)

  def write_slice(self, symbols: np.ndarray, scale_index: np.ndarray) -> None:
    """Writes a slice as it is; both (h, w, slice channels)."""
    self._write_symbols(symbols, self._write_tables(scale_index))

  def _write_tables(self, scale_index):
    """How indices are rounded; returns (N,) tables of the coded elements."""
    scale_index = scale_index[self._coded].ravel()
    shifts = scale_rounding.choose_shifts(scale_index)
    self._shifts.encode(self._encoder, shifts)
    self._rounding_bits += self._encoder.bits_spent - self._ends[-1]
    return scale_rounding.round_indices(scale_index, shifts)

  def _write_symbols(self, symbols, table):
    self._slices.append(symbols)
    symbols = symbols[self._coded].ravel()
    used = table[symbols != 0]
    first = int(used.min()) if used.size else gaussian.NUM_SCALES
    self._encoder.encode(np.full(1, first, np.int32), _ONE_TABLE, _FIRST)
    coded = _coded_under(table, first)
    self._encoder.encode(symbols[coded], table[coded], self._gaussian)
    self._ends.append(self._encoder.bits_spent)

  def finish(self) -> Payload:
    return Payload(
      data=self._encoder.get_bytes(),
      symbols=_as_symbols(self._z, self._slices),
      z_bits=self._ends[0],
      y_bits=np.diff(self._ends),
      rounding_bits=self._rounding_bits,
    )


class _TileReader:
  """One tile's stream as it is read, slice by slice."""

  def __init__(
    self,
    prior,
    gaussians,
    data: bytes,
    z_size: tuple[int, int],
    coded: tuple[int, int],
  ):
    self._gaussian = gaussians
    self._coded = tuple(slice(side) for side in coded)
    self._decoder = range_coder.Decoder(data)
    self._shifts = scale_rounding.ShiftCoder()
    self._slices = []
    shape = (*z_size, len(prior))
    self.z = self._decoder.decode(_channels(shape), prior).reshape(shape)

  def read_slice(self, scale_index: np.ndarray) -> np.ndarray:
    """(h, w, slice channels) both."""
    inside = scale_index[self._coded]
    shifts = self._shifts.decode(self._decoder, inside.size)
    table = scale_rounding.round_indices(inside.ravel(), shifts)
    first = int(self._decoder.decode(_ONE_TABLE, _FIRST)[0])
    if not 0 <= first <= gaussian.NUM_SCALES:
      raise container.BitstreamError(
        f"the payload is damaged: it names a table {first}"
      )
    coded = _coded_under(table, first)
    found = np.zeros(inside.size, np.int32)
    found[coded] = self._decoder.decode(table[coded], self._gaussian)
    symbols = np.zeros(scale_index.shape, np.int32)
    symbols[self._coded] = found.reshape(inside.shape)
    self._slices.append(symbols)
    return self._slices[-1]

  def symbols(self) -> Symbols:
    return _as_symbols(self.z, self._slices)


class _NotFiniteError(ValueError):
  pass


def _as_symbols(z, slices):
  return Symbols(z[None], tuple(one[None] for one in slices))


def _first_tables() -> tables_lib.SymbolTables:
  """How likely each table is the first with a symbol other than 0.

  1/4 for each of the first three, 1/16 for 64 (there is none), and the others
  in proportion to 1 / k.
  """
  frequencies = [tables_lib.TOTAL // 4] * 3
  frequencies += [
    tables_lib.TOTAL * 3 // (52 * k) for k in range(3, gaussian.NUM_SCALES)
  ]
  frequencies.append(tables_lib.TOTAL // 16)
  frequencies.append(tables_lib.TOTAL - sum(frequencies))
  return tables_lib.SymbolTables(
    np.asarray(frequencies, np.int32),
    np.asarray([len(frequencies)], np.int32),
    np.zeros(1, np.int32),
  )


_FIRST = range_coder.CodingTables(_first_tables())
_ONE_TABLE = np.zeros(1, np.int32)


def _coded_under(table: np.ndarray, first: int) -> np.ndarray:
  """Places of elements under this table and later ones.

  As numbers: NumPy takes several times as long to pick elements by a mask.
  """
  return np.flatnonzero(table >= first)


def _channels(shape: tuple[int, ...]) -> np.ndarray:
  """The channel of every element of an array of this shape, flattened."""
  return np.tile(np.arange(shape[-1], dtype=np.int32), np.prod(shape[:-1]))


def _round_to_int32(x: np.ndarray, name: str) -> np.ndarray:
  """Half to even, as in training."""
  # Written so that nan fails as well.
  if not np.all(np.abs(x) < 2.0**31):
    raise ValueError(
      f"{name} is not finite or exceeds 32 bits: the model is broken"
    )
  return np.rint(x).astype(np.int32)
