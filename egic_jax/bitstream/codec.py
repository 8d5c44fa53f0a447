"""Image to file content and back."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.bitstream import (
  buckets,
  container,
  latents,
  model_file,
  mosaic,
  programs,
  tiles,
  windowed,
)
from egic_jax.bitstream import tables as tables_lib
from egic_jax.models import presets

# (parts done, parts in all).
Progress = Callable[[int, int], None]

# Of the images that one call of a network takes: 5 GB for the largest model.
_BATCH_PIXELS = 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
  """A file's content and what went into it.

  Attributes:
    data: the file.
    symbols: the integers it holds, those of all tiles put together.
    z_bits: real bits of z in the payloads, fractions included.
    y_bits: (slices,) float64, real bits of each slice.
  """

  data: bytes
  symbols: latents.Symbols
  z_bits: float
  y_bits: np.ndarray


class ImageCodec:
  """Codes images with one model. Holds no state: calls may run in threads.

  Pictures of more than 1024 pixels a side are coded tile by tile, see `tiles`.
  Memory beyond that of the networks on one tile grows by 8 bytes a pixel (the
  image and its latents, of the full model), see `benchmarks/README.md`.

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
    # Elements of y per element of z, along a side.
    self._y_scale = config.hyper_stride // config.latent_stride

  @classmethod
  def from_model(cls, model: model_file.Model) -> "ImageCodec":
    """A codec with the model's parameters and tables."""
    return cls(model.config, model.params, model.tables, model.fingerprint)

  def encode(
    self, image: np.ndarray, *, progress: Progress | None = None
  ) -> bytes:
    """Codes an image of any size.

    Args:
      image: (H, W, 3) uint8, H and W at least 1.
      progress: called with the parts done and the parts in all.

    Returns:
      The content of an `.egic` file.

    Raises:
      ValueError: if `image` is not as stated, or the model's latents are not
        finite.
    """
    _check_image(image)
    return self._encode(image[None], progress=progress)[0]

  def encode_batch(self, images: np.ndarray) -> list[bytes]:
    """Codes images of equal size, each network in one call for all of them.

    A batch of more than 4 million pixels takes several calls. Programs are
    compiled for each number of images: prefer batches of one length.

    Args:
      images: (N, H, W, 3) uint8, H and W at least 1; N may be 0.

    Returns:
      The content of one `.egic` file an image: as `encode`, save that sums taken
      in another order may round a latent otherwise.

    Raises:
      ValueError: as `encode`.
    """
    _check_image(images, batch=True)
    files = []
    for part, length in self._batches(len(images), images.shape[1:3]):
      files += self._encode(images[part], length)
    return files

  def encode_with_parts(self, image: np.ndarray) -> Encoded:
    """`encode`, with the symbols and what each part of them cost."""
    _check_image(image)
    collected = mosaic.Mosaic(self.config, _z_size(image.shape[:2]))
    bits = []

    def visit(region, payload):
      collected.add(region, payload.symbols)
      bits.append((payload.z_bits, *payload.y_bits))

    (data,) = self._encode(image[None], visit=visit)
    z_bits, *y_bits = np.sum(bits, axis=0)
    return Encoded(data, collected.symbols, float(z_bits), np.array(y_bits))

  def decode(
    self,
    data: bytes,
    alpha: float = 1.0,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
    progress: Progress | None = None,
  ) -> np.ndarray:
    """Decodes a file's content.

    Args:
      data: what `encode` returned.
      alpha: 1 for the synthesis output, 0 for the output of least squared
        error, between them a mixture (Output Residual Prediction). It does not
        touch the file. Other than 1 needs a model with an ORP head.
      max_pixels: the largest height x width accepted; None accepts any.
      progress: called with the parts done and the parts in all.

    Returns:
      (H, W, 3) uint8.

    Raises:
      BitstreamError: one line, if the file is foreign, damaged, newer, too
        large, of another model, or does not decode to the symbols encoded.
      ValueError: if `alpha` is outside [0, 1] or the model has no ORP head.
    """
    self._check_alpha(alpha)
    header = self._unpack(data, max_pixels)
    return self._decode([header], alpha, progress=progress)[0]

  def decode_batch(
    self,
    files: Sequence[bytes],
    alpha: float = 1.0,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> np.ndarray:
    """Decodes files of images of equal size, see `encode_batch`.

    Args:
      files: N of what `encode` or `encode_batch` returned, at least one.
      alpha: as in `decode`, for all.
      max_pixels: the largest height x width accepted for one image.

    Returns:
      (N, H, W, 3) uint8.

    Raises:
      BitstreamError: as `decode`; one bad file fails the batch.
      ValueError: as `decode`, or if there are no files or their sizes differ.
    """
    self._check_alpha(alpha)
    headers = [self._unpack(data, max_pixels) for data in files]
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) != 1:
      raise ValueError(
        f"files hold pictures of {len(sizes)} sizes; pass at least one, all of"
        " one size"
      )
    return np.concatenate(
      [
        self._decode(headers[part], alpha, length)
        for part, length in self._batches(len(headers), *sizes)
      ]
    )

  def decode_symbols(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> latents.Symbols:
    """The symbols in a file, of all tiles; raises as `decode` does."""
    header = self._unpack(data, max_pixels)
    collected = mosaic.Mosaic(self.config, header.z_size)
    for regions_symbols in self._decode_tiles([header]):
      collected.add(*regions_symbols[1:3])
    return collected.symbols

  def inspect(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> dict[str, Any]:
    """What `container.inspect` says, and the parts of the payloads.

    Returns:
      In addition z_bytes, a float, y_bytes, one float a slice, and
      rounding_bytes, those of y_bytes that make scale indices round alike
      everywhere: a payload is one stream, in which parts do not end at whole
      bytes.

    Raises:
      BitstreamError: as `decode`.
    """
    # A decoder cannot tell how far it has read to the bit: code once more.
    header = self._unpack(data, max_pixels)
    coded = [
      self._latent_coder.measure(symbols, region.coded(header.size))
      for _, region, symbols, _ in self._decode_tiles([header])
    ]
    return {
      **container.inspect(data),
      "z_bytes": sum(payload.z_bits for payload in coded) / 8,
      "y_bytes": (sum(payload.y_bits for payload in coded) / 8).tolist(),
      "rounding_bytes": sum(payload.rounding_bits for payload in coded) / 8,
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
    y = windowed.analysis(self.config, self._codec_params, image[None])
    y_bits, z_bits = np.zeros(self.config.num_slices), 0.0
    for region in tiles.tiles(*_z_size(image.shape[:2])):
      part, valid = buckets.place(
        y[:, *region.slices(self._y_scale)], self._y_scale
      )
      z = self._programs.hyper_analysis(self._codec_params, part, valid)
      coded = tuple(map(np.int32, region.coded(image.shape[:2])))
      y_part, z_part = self._programs.bits(
        self._codec_params, part, z, valid, coded
      )
      y_bits += np.asarray(y_part[0], np.float64)
      z_bits += float(z_part[0])
    return {
      "z_bits": z_bits,
      "y_bits": y_bits.tolist(),
      "bits": z_bits + float(y_bits.sum()),
    }

  def _encode(
    self,
    images: np.ndarray,
    length: int = 1,
    *,
    visit: Callable[[tiles.Region, latents.Payload], None] | None = None,
    progress: Progress | None = None,
  ) -> list[bytes]:
    """Files of images; `length` is the batch that networks are run with."""
    height, width = images.shape[1:3]
    z_size = _z_size((height, width))
    regions = tiles.tiles(*z_size)
    step = _steps(
      progress, len(windowed.analysis_windows(z_size)) + len(regions)
    )
    count = len(images)
    if count < length:
      images = np.concatenate([images, [images[-1]] * (length - count)])
    y = windowed.analysis(self.config, self._codec_params, images, step)
    payloads = [[] for _ in range(count)]
    checksums = [0] * count
    for region in regions:
      y_tile = y[:, *region.slices(self._y_scale)]
      z_tile = self._hyper_analysis(y_tile)
      tile_payloads = self._latent_coder.encode(
        y_tile, z_tile, region.coded((height, width))
      )
      for k, payload in enumerate(tile_payloads[:count]):
        payloads[k].append(payload.data)
        checksums[k] = payload.symbols.checksum(checksums[k])
        if visit is not None:
          visit(region, payload)
      step()
    return [
      container.pack(
        container.Container(
          fingerprint=self.fingerprint,
          height=height,
          width=width,
          symbol_checksum=checksum,
          payloads=tuple(parts),
        )
      )
      for parts, checksum in zip(payloads, checksums, strict=True)
    ]

  def _hyper_analysis(self, y: np.ndarray) -> np.ndarray:
    """z of a tile's y."""
    part, valid = buckets.place(y, self._y_scale)
    z = self._programs.hyper_analysis(self._codec_params, part, valid)
    return np.asarray(z)[:, : valid[0], : valid[1]]

  def _decode(
    self,
    headers: list[container.Container],
    alpha: float,
    length: int = 1,
    *,
    progress: Progress | None = None,
  ) -> np.ndarray:
    """Images of files of one size; `length` as in `_encode`."""
    header = headers[0]
    z_height, z_width = header.z_size
    step = _steps(
      progress,
      len(header.payloads) + len(windowed.synthesis_windows(header.z_size)),
    )
    scale = self._y_scale
    shape = (scale * z_height, scale * z_width, self.config.latent_channels)
    y_hat = np.zeros((max(length, len(headers)), *shape), np.float32)
    for k, region, _, part in self._decode_tiles(headers, length):
      y_hat[k, *region.slices(scale)] = part
      if k == len(headers) - 1:
        step()
    if alpha == 1.0:
      synthesize = functools.partial(
        self._programs.synthesis, self._codec_params
      )
    else:

      def synthesize(y_hat, valid):
        return self._programs.synthesis_orp(
          self._codec_params, self._orp_params, y_hat, np.float32(alpha), valid
        )

    size = (header.height, header.width)
    images = windowed.synthesis(self.config, synthesize, y_hat, size, step)
    return images[: len(headers)]

  def _decode_tiles(
    self, headers: list[container.Container], length: int = 1
  ) -> Iterator[tuple[int, tiles.Region, latents.Symbols, np.ndarray]]:
    """Yields file, tile, symbols and y_hat; at the end the checksums must match.

    Of files of one size; `length` as in `_encode`.
    """
    checksums = [0] * len(headers)
    filled = headers + headers[-1:] * (length - len(headers))
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

  def _unpack(self, data: bytes, max_pixels: int | None) -> container.Container:
    """Refuses what is no file of this model."""
    header = container.unpack(data, max_pixels=max_pixels)
    if header.fingerprint != self.fingerprint:
      raise container.BitstreamError(
        f"the file was made by model {header.fingerprint.hex()}, but this is"
        f" model {self.fingerprint.hex()}; decode it with the model that made"
        " it"
      )
    return header

  def _check_alpha(self, alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
      raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    if alpha != 1.0 and self._orp_params is None:
      raise ValueError(
        f"alpha is {alpha}, but this model has no ORP head; use alpha 1"
      )

  def _batches(
    self, count: int, size: tuple[int, int]
  ) -> Iterator[tuple[slice, int]]:
    """Yields parts of a batch, and the length that all are filled up to."""
    grid = buckets.latent_grid(*(min(n, tiles.LONGEST) for n in _z_size(size)))
    pixels = grid[0] * grid[1] * self.config.hyper_stride**2
    parts = -(-count // max(1, _BATCH_PIXELS // pixels))
    length = -(-count // max(1, parts))
    for k in range(parts):
      yield slice(k * length, (k + 1) * length), length


def _steps(progress: Progress | None, total: int) -> Callable[[], None]:
  """Returns what to call after each of `total` parts."""
  done = 0

  def step():
    nonlocal done
    done += 1
    if progress is not None:
      progress(done, total)

  return step


def _z_size(size: tuple[int, int]) -> tuple[int, int]:
  """Pixels to elements of z."""
  return -(-size[0] // container.STRIDE), -(-size[1] // container.STRIDE)


def _check_image(image: np.ndarray, batch: bool = False) -> None:
  shape = getattr(image, "shape", ())
  if (
    not isinstance(image, np.ndarray)
    or image.dtype != np.uint8
    or image.ndim != 3 + batch
    or image.shape[-1] != 3
    or 0 in shape[batch:]
  ):
    raise ValueError(
      f"image is {getattr(image, 'dtype', type(image).__name__)} of shape"
      f" {np.shape(image)}; pass {'(N, H, W, 3)' if batch else '(H, W, 3)'}"
      " uint8, not empty"
    )
