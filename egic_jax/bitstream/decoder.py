"""Files to symbols, and to pictures."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from egic_jax.bitstream import (
  buckets,
  container,
  latents,
  programs,
  quality,
  tiles,
  windowed,
)
from egic_jax.models import presets


class Decoder:
  """The decoding side of `codec.ImageCodec`. Holds no state."""

  def __init__(
    self,
    config: presets.CodecConfig,
    codec_params: Mapping[str, Any],
    orp_params: Mapping[str, Any] | None,
    latent_coder: latents.LatentCoder,
    fingerprint: bytes,
    precision: str,
  ):
    """Parameters on the device; the rest as in `codec.ImageCodec`."""
    self._config = config
    self._params = codec_params
    self._orp_params = orp_params
    self._latent_coder = latent_coder
    self._fingerprint = fingerprint
    self._programs = programs.programs(config, precision)
    self._y_scale = config.hyper_stride // config.latent_stride

  def unpack(self, data: bytes, max_pixels: int | None) -> container.Container:
    """Reads a file; BitstreamError in one line if it is none of this model."""
    header = container.unpack(data, max_pixels=max_pixels)
    if header.fingerprint != self._fingerprint:
      raise container.BitstreamError(
        f"the file was made by model {header.fingerprint.hex()}, but this is"
        f" model {self._fingerprint.hex()}; decode it with the model that made"
        " it"
      )
    # Only a forger gets as far as this: the fingerprint covers the levels.
    if (header.quality_code is not None) != bool(self._config.rate_levels):
      kinds = ("one rate", "several rates")
      raise container.BitstreamError(
        f"the file has format version {header.version}, of models of"
        f" {kinds[header.quality_code is not None]}, but this is a model of"
        f" {kinds[bool(self._config.rate_levels)]}: the file is damaged"
      )
    return header

  def pictures(
    self,
    headers: Sequence[container.Container],
    alpha: float,
    length: int,
    step: Callable[[], None],
  ) -> np.ndarray:
    """Pictures of files of one size.

    Args:
      headers: N of what `unpack` returned.
      alpha: in [0, 1]; other than 1 needs parameters of an ORP head.
      length: the batch that networks are run with, at least N.
      step: called after each tile of all files, and then each of
        `windowed.synthesis_windows`.

    Returns:
      (N, H, W, 3) uint8.

    Raises:
      BitstreamError: if a file does not decode to the symbols encoded.
    """
    z_height, z_width = headers[0].z_size
    scale = self._y_scale
    shape = (scale * z_height, scale * z_width, self._config.latent_channels)
    y_hat = np.zeros((max(length, len(headers)), *shape), np.float32)
    self._prepare_synthesis(y_hat, alpha)
    inverse_gains = [self._inverse_gain(header) for header in headers]
    for k, region, _, part in self.tiles(headers, length):
      y_hat[k, *region.slices(scale)] = part * inverse_gains[k]
      if k == len(headers) - 1:
        step()
    if alpha == 1.0:
      synthesize = functools.partial(self._programs.synthesis, self._params)
    else:

      def synthesize(y_hat, valid):
        return self._programs.synthesis_orp(
          self._params, self._orp_params, y_hat, np.float32(alpha), valid
        )

    images = windowed.synthesis(
      self._config, synthesize, y_hat, headers[0].size, step
    )
    return images[: len(headers)]

  def _prepare_synthesis(self, y_hat: np.ndarray, alpha: float) -> None:
    """Has its program read or compiled while latents are decoded."""
    z_size = tuple(side // self._y_scale for side in y_hat.shape[1:3])
    window = windowed.synthesis_windows(z_size)[0]
    latent, valid = buckets.place(
      y_hat[:, *window.outer.slices(self._y_scale)], self._y_scale
    )
    if alpha == 1.0:
      self._programs.synthesis.prepare(self._params, latent, valid)
    else:
      self._programs.synthesis_orp.prepare(
        self._params, self._orp_params, latent, np.float32(alpha), valid
      )

  def tiles(
    self, headers: Sequence[container.Container], length: int = 1
  ) -> Iterator[tuple[int, tiles.Region, latents.Symbols, np.ndarray]]:
    """Yields file, tile, symbols and y_hat, scaled as it was coded.

    Of files of one size. BitstreamError at the end unless the checksums match;
    `length` as in `pictures`.
    """
    checksums = [0] * len(headers)
    filled = [*headers, *[headers[-1]] * (length - len(headers))]
    for i, region in enumerate(tiles.tiles(*headers[0].z_size)):
      symbols, y_hat = self._latent_coder.decode(
        [header.payloads[i] for header in filled],
        region.size,
        region.coded(headers[0].size),
      )
      for k in range(len(headers)):
        checksums[k] = symbols[k].checksum(checksums[k])
        yield k, region, symbols[k], y_hat[k]
    for header, checksum in zip(headers, checksums, strict=True):
      if header.symbol_checksum != checksum:
        raise container.BitstreamError(latents.MISMATCH)

  def _inverse_gain(self, header: container.Container) -> np.ndarray:
    """What a file's y_hat is multiplied by before synthesis, (C,) or (1,)."""
    if header.quality_code is None:
      return np.ones(1, np.float32)
    value = quality.of_code(header.quality_code, self._config.rate_levels)
    return np.asarray(self._programs.gains(self._params, value)[1])
