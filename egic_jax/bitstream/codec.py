"""Image to file content and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.bitstream import (
  container,
  latents,
  model_file,
  programs,
  range_coder,
)
from egic_jax.bitstream import tables as tables_lib
from egic_jax.models import presets


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """A file's content and what went into it.

  Attributes:
    data: the file.
    symbols: the integers it holds.
    z_bits: real bits of z in the payload, fractions included.
    y_bits: (slices,) float64, real bits of each slice.
  """

  data: bytes
  symbols: latents.Symbols
  z_bits: float
  y_bits: np.ndarray


class ImageCodec:
  """Codes images with one model. Holds no state: calls may run in threads.

  Attributes:
    config: size of the model.
    fingerprint: 8 bytes that every file of this model carries.
  """

  def __init__(
    self,
    config: presets.CodecConfig,
    params: Mapping[str, Any],
    tables: Mapping[str, tables_lib.SymbolTables],
    fingerprint: bytes,
  ):
    """See `from_model`; the arguments are the fields of `model_file.Model`."""
    self.config = config
    self.fingerprint = fingerprint
    self._codec_params = jax.tree.map(jnp.asarray, params["codec"])
    self._orp_params = None
    if "orp" in params:
      self._orp_params = jax.tree.map(jnp.asarray, params["orp"])
    self._latent_coder = latents.LatentCoder(config, self._codec_params, tables)
    self._programs = programs.programs(config)

  @classmethod
  def from_model(cls, model: model_file.Model) -> "ImageCodec":
    """A codec with the model's parameters and tables."""
    return cls(model.config, model.params, model.tables, model.fingerprint)

  def encode(self, image: np.ndarray) -> bytes:
    """Codes an image of any size.

    Args:
      image: (H, W, 3) uint8, H and W at least 1.

    Returns:
      The content of an `.egic` file.

    Raises:
      ValueError: if `image` is not as stated, or the model's latents are not
        finite.
    """
    return self.encode_with_parts(image).data

  def encode_with_parts(self, image: np.ndarray) -> Encoded:
    """`encode`, with the symbols and what each part of them cost."""
    _check_image(image)
    y, z = self._programs.analysis(self._codec_params, self._pad(image))
    payload = self._latent_coder.encode(np.asarray(y), np.asarray(z))
    data = container.pack(
      container.Container(
        fingerprint=self.fingerprint,
        height=image.shape[0],
        width=image.shape[1],
        symbol_checksum=payload.symbols.checksum(),
        payload=payload.data,
      )
    )
    return Encoded(data, payload.symbols, payload.z_bits, payload.y_bits)

  def decode(
    self,
    data: bytes,
    alpha: float = 1.0,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> np.ndarray:
    """Decodes a file's content.

    Args:
      data: what `encode` returned.
      alpha: 1 for the synthesis output, 0 for the output of least squared
        error, between them a mixture (Output Residual Prediction). It does not
        touch the file. Other than 1 needs a model with an ORP head.
      max_pixels: the largest height x width accepted; None accepts any.

    Returns:
      (H, W, 3) uint8.

    Raises:
      BitstreamError: one line, if the file is foreign, damaged, newer, too
        large, of another model, or does not decode to the symbols encoded.
      ValueError: if `alpha` is outside [0, 1] or the model has no ORP head.
    """
    if not 0.0 <= alpha <= 1.0:
      raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    if alpha != 1.0 and self._orp_params is None:
      raise ValueError(
        f"alpha is {alpha}, but this model has no ORP head; use alpha 1"
      )
    header = container.unpack(data, max_pixels=max_pixels)
    _, y_hat = self._decode_latents(header)
    if alpha == 1.0:
      image = self._programs.synthesis(self._codec_params, y_hat)
    else:
      image = self._programs.synthesis_orp(
        self._codec_params, self._orp_params, y_hat, np.float32(alpha)
      )
    return np.array(image[0])[: header.height, : header.width]

  def decode_symbols(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> latents.Symbols:
    """The symbols in a file; raises as `decode` does."""
    header = container.unpack(data, max_pixels=max_pixels)
    return self._decode_latents(header)[0]

  def inspect(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> dict[str, Any]:
    """What `container.inspect` says, and the parts of the payload.

    Returns:
      In addition z_bytes, a float, and y_bytes, one float a slice: the payload
      is one stream, in which parts do not end at whole bytes.

    Raises:
      BitstreamError: as `decode`.
    """
    # A decoder cannot tell how far it has read to the bit: code once more.
    encoder = range_coder.Encoder()
    ends = []

    def measure(symbols, table_index, tables):
      encoder.encode(symbols, table_index, tables)
      ends.append(encoder.bits_spent / 8)

    header = container.unpack(data, max_pixels=max_pixels)
    self._decode_latents(header, measure)
    return {
      **container.inspect(data),
      "z_bytes": ends[0],
      "y_bytes": np.diff(ends).tolist(),
    }

  def estimate_bits(self, image: np.ndarray) -> dict[str, Any]:
    """Information content by the model's densities, with real-valued scales.

    Args:
      image: (H, W, 3) uint8.

    Returns:
      z_bits, y_bits (one a slice) and bits, their sum.

    Raises:
      ValueError: if `image` is not as stated.
    """
    _check_image(image)
    y_bits, z_bits = self._programs.bits(self._codec_params, self._pad(image))
    y_bits, z_bits = np.asarray(y_bits[0], np.float64), float(z_bits[0])
    return {
      "z_bits": z_bits,
      "y_bits": y_bits.tolist(),
      "bits": z_bits + float(y_bits.sum()),
    }

  def _decode_latents(self, header: container.Container, observe=None):
    """See `LatentCoder.decode`; refuses files of other models."""
    if header.fingerprint != self.fingerprint:
      raise container.BitstreamError(
        f"the file was made by model {header.fingerprint.hex()}, but this is"
        f" model {self.fingerprint.hex()}; decode it with the model that made"
        " it"
      )
    stride = self.config.hyper_stride
    z_size = (-(-header.height // stride), -(-header.width // stride))
    return self._latent_coder.decode(
      header.payload, z_size, header.symbol_checksum, observe
    )

  def _pad(self, image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 > (1, H', W', 3) uint8, sides multiples of 64."""
    stride = self.config.hyper_stride
    below, right = (-side % stride for side in image.shape[:2])
    # Reflected over and over where the padding is longer than the image.
    return np.pad(image, ((0, below), (0, right), (0, 0)), "reflect")[None]


def _check_image(image: np.ndarray) -> None:
  if (
    not isinstance(image, np.ndarray)
    or image.dtype != np.uint8
    or image.ndim != 3
    or image.shape[-1] != 3
    or 0 in image.shape
  ):
    raise ValueError(
      f"image is {getattr(image, 'dtype', type(image).__name__)} of shape"
      f" {np.shape(image)}; pass (H, W, 3) uint8, not empty"
    )
