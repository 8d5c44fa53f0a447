"""Pictures to files: analysis once, then tile by tile at any quality."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
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

_Visit = Callable[[tiles.Region, latents.Payload], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Analysed:
  """Pictures of one size after analysis, the part that no quality changes.

  Attributes:
    y: (B, h, w, latent channels) float32, not scaled.
    size: height and width of the pictures in pixels.
    count: how many of the batch are pictures; the others fill it up.
  """

  y: np.ndarray
  size: tuple[int, int]
  count: int

  @property
  def regions(self) -> list[tiles.Region]:
    """The tiles that make a file, in order."""
    return tiles.tiles(*z_size(self.size))


class Encoder:
  """The encoding side of `codec.ImageCodec`. Holds no state."""

  def __init__(
    self,
    config: presets.CodecConfig,
    codec_params: Mapping[str, Any],
    latent_coder: latents.LatentCoder,
    fingerprint: bytes,
    precision: str,
  ):
    """`codec_params` on the device; the rest as in `codec.ImageCodec`."""
    self._config = config
    self._params = codec_params
    self._latent_coder = latent_coder
    self._fingerprint = fingerprint
    self._programs = programs.programs(config, precision)
    self._y_scale = config.hyper_stride // config.latent_stride

  def analyse(
    self, images: np.ndarray, length: int, step: Callable[[], None]
  ) -> Analysed:
    """y of pictures, ready to be coded.

    Args:
      images: (N, H, W, 3) uint8.
      length: the batch that networks are run with, at least N.
      step: called after each of `windowed.analysis_windows`.
    """
    count = len(images)
    if count < length:
      images = np.concatenate([images, [images[-1]] * (length - count)])
    analyse = functools.partial(self._programs.analysis, self._params)
    y = windowed.analysis(self._config, analyse, images, step)
    return Analysed(y, images.shape[1:3], count)

  def files(
    self,
    analysed: Analysed,
    quality_code: int | None,
    *,
    step: Callable[[], None] = lambda: None,
    visit: _Visit | None = None,
  ) -> list[bytes]:
    """The file of each picture.

    Args:
      analysed: of `analyse`.
      quality_code: in `quality.CODES`; None for a model of one rate.
      step: called after each of the pictures' tiles.
      visit: called with each tile and its payload.

    Raises:
      ValueError: if the model's latents are not finite.
    """
    payloads = [[] for _ in range(analysed.count)]
    checksums = [0] * analysed.count
    for region in analysed.regions:
      y, z = self._latents(analysed, region, quality_code)
      coded = self._latent_coder.encode(y, z, region.coded(analysed.size))
      for k, payload in enumerate(coded[: analysed.count]):
        payloads[k].append(payload.data)
        checksums[k] = payload.symbols.checksum(checksums[k])
        if visit is not None:
          visit(region, payload)
      step()
    height, width = analysed.size
    return [
      container.pack(
        container.Container(
          fingerprint=self._fingerprint,
          height=height,
          width=width,
          symbol_checksum=checksum,
          payloads=tuple(parts),
          quality_code=quality_code,
        )
      )
      for parts, checksum in zip(payloads, checksums, strict=True)
    ]

  def estimate_bits(
    self, analysed: Analysed, quality_code: int | None
  ) -> dict[str, Any]:
    """See `codec.ImageCodec.estimate_bits`; of the first picture."""
    y_bits, z_bits = np.zeros(self._config.num_slices), 0.0
    for region in analysed.regions:
      y, z = self._latents(analysed, region, quality_code)
      y, valid = buckets.place(y, self._y_scale)
      z, _ = buckets.place(z, 1)
      coded = tuple(map(np.int32, region.coded(analysed.size)))
      y_part, z_part = self._programs.bits(self._params, y, z, valid, coded)
      y_bits += np.asarray(y_part[0], np.float64)
      z_bits += float(z_part[0])
    return {
      "z_bits": z_bits,
      "y_bits": y_bits.tolist(),
      "bits": z_bits + float(y_bits.sum()),
    }

  def _latents(
    self, analysed: Analysed, region: tiles.Region, quality_code: int | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """A tile's y, scaled for the quality, and its z."""
    y = analysed.y[:, *region.slices(self._y_scale)]
    if quality_code is not None:
      value = quality.of_code(quality_code, self._config.rate_levels)
      gain, _ = self._programs.gains(self._params, value)
      y = y * np.asarray(gain)
    part, valid = buckets.place(y, self._y_scale)
    z = self._programs.hyper_analysis(self._params, part, valid)
    return y, np.asarray(z)[:, : valid[0], : valid[1]]


def z_size(size: tuple[int, int]) -> tuple[int, int]:
  """Pixels to elements of z."""
  return -(-size[0] // container.STRIDE), -(-size[1] // container.STRIDE)
