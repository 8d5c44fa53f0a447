"""Latents to a payload and back: the slice loop between model and range coder.

Encoder and decoder step through the same compiled programs at the same shapes:
hyper-synthesis of z_hat, then the slice loop, slice by slice. On one machine
their results are therefore equal bit for bit; what is done between programs
(rounding, adding the mean) is NumPy's, once for both sides. Should arithmetic
differ elsewhere, the checksum over all symbols tells.

z is coded first, under one table a channel, then the slices of y, under the
tables that the rounded scale indices name. Elements go row by row, column by
column, channel by channel, before the range coder groups them by table.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from egic_jax.bitstream import container, programs, range_coder
from egic_jax.bitstream import tables as tables_lib
from egic_jax.entropy import gaussian
from egic_jax.models import charm, presets

# (slice, mean, table index) to symbols; all (1, h, w, slice channels).
_SliceSymbols = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
# What `Encoder.encode` takes: symbols, table index, tables.
_Observer = Callable[[np.ndarray, np.ndarray, range_coder.CodingTables], None]

_MISMATCH = (
  "the decoded symbols do not match the file's checksum: the file was made on a"
  " machine or with a library whose arithmetic differs from this one's, or with"
  " other tables; decode it where it was made"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Symbols:
  """The integers that an image becomes.

  Attributes:
    z: (1, H/64, W/64, hyper width) int32.
    y: one (1, H/16, W/16, slice channels) int32 a slice.
  """

  z: np.ndarray
  y: tuple[np.ndarray, ...]

  def checksum(self) -> int:
    """CRC-32 of all symbols in coding order, as little-endian int32."""
    value = 0
    for symbols in (self.z, *self.y):
      value = zlib.crc32(symbols.astype("<i4").tobytes(), value)
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class Payload:
  """Coded symbols.

  Attributes:
    data: the range-coded stream.
    symbols: what it holds.
    z_bits: bits that z took, fractions included.
    y_bits: (slices,) float64, bits that each slice took.
  """

  data: bytes
  symbols: Symbols
  z_bits: float
  y_bits: np.ndarray


class LatentCoder:
  """Codes the latents of one image at a time. Holds no state."""

  def __init__(
    self,
    config: presets.CodecConfig,
    codec_params: Mapping[str, Any],
    tables: Mapping[str, tables_lib.SymbolTables],
  ):
    """The arguments are as in `model_file.Model`; codec_params on the device."""
    self._config = config
    self._params = codec_params
    self._prior = range_coder.CodingTables(tables["prior"])
    self._gaussian = range_coder.CodingTables(tables["gaussian"])
    self._programs = programs.programs(config)

  def encode(self, y: np.ndarray, z: np.ndarray) -> Payload:
    """Rounds and codes latents.

    Args:
      y: (1, H/16, W/16, latent channels) float32.
      z: (1, H/64, W/64, hyper width) float32.

    Raises:
      ValueError: if a latent or a parameter of its distribution is not finite.
    """
    encoder = range_coder.Encoder()
    z = _round_to_int32(z, "z")
    encoder.encode(z.ravel(), _channels(z.shape), self._prior)
    ends = [encoder.bits_spent]
    slices = []
    size = self._config.slice_channels

    def encode_slice(i, mean, table_index):
      residual = y[..., i * size : (i + 1) * size] - mean
      slices.append(_round_to_int32(residual, f"slice {i} of y"))
      encoder.encode(slices[-1].ravel(), table_index.ravel(), self._gaussian)
      ends.append(encoder.bits_spent)
      return slices[-1]

    try:
      self._visit_slices(z, encode_slice)
    except _NotFiniteError as error:
      raise ValueError(f"{error}: the model is broken") from error
    return Payload(
      data=encoder.get_bytes(),
      symbols=Symbols(z, tuple(slices)),
      z_bits=ends[0],
      y_bits=np.diff(ends),
    )

  def decode(
    self,
    data: bytes,
    z_size: tuple[int, int],
    checksum: int,
    observe: _Observer | None = None,
  ) -> tuple[Symbols, jax.Array]:
    """Decodes a payload.

    Args:
      data: the range-coded stream.
      z_size: height and width of z.
      checksum: that of the symbols encoded.
      observe: is shown every group of symbols decoded.

    Returns:
      The symbols, and y_hat (1, H/16, W/16, latent channels).

    Raises:
      BitstreamError: unless these are the symbols that were encoded.
    """
    decoder = range_coder.Decoder(data)

    def decode_group(table_index, tables):
      symbols = decoder.decode(table_index, tables)
      if observe is not None:
        observe(symbols, table_index, tables)
      return symbols

    shape = (1, *z_size, self._config.hyper_width)
    z = decode_group(_channels(shape), self._prior).reshape(shape)
    slices = []

    def decode_slice(i, mean, table_index):
      del i
      symbols = decode_group(table_index.ravel(), self._gaussian)
      slices.append(symbols.reshape(mean.shape))
      return slices[-1]

    try:
      y_hat = self._visit_slices(z, decode_slice)
    except _NotFiniteError as error:
      raise container.BitstreamError(_MISMATCH) from error
    symbols = Symbols(z, tuple(slices))
    if symbols.checksum() != checksum:
      raise container.BitstreamError(_MISMATCH)
    return symbols, y_hat

  def _visit_slices(
    self, z: np.ndarray, slice_symbols: _SliceSymbols
  ) -> jax.Array:
    """From the symbols of z to y_hat, the same way for encoder and decoder."""

    def slice_parameters(i, *latents_and_support):
      return self._programs.slice_parameters(
        i, self._params, *latents_and_support
      )

    def visit(i, mean, scale_index):
      mean, scale_index = np.asarray(mean), np.asarray(scale_index)
      if not (np.isfinite(mean).all() and np.isfinite(scale_index).all()):
        raise _NotFiniteError(f"parameters of slice {i} are not finite")
      table_index = np.rint(scale_index).astype(np.int32)
      table_index = np.clip(table_index, 0, gaussian.NUM_SCALES - 1)
      symbols = slice_symbols(i, mean, table_index)
      return symbols.astype(np.float32) + mean

    z_hat = z.astype(np.float32)
    latent_means, latent_scales = self._programs.hyper_synthesis(
      self._params, z_hat
    )
    return charm.visit_slices(
      slice_parameters,
      visit,
      latent_means,
      latent_scales,
      self._config.num_slices,
    )


class _NotFiniteError(ValueError):
  pass


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
