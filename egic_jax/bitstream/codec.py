"""Image to file content and back."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from egic_jax.bitstream import (
  batches,
  container,
  decoder,
  encoder,
  latents,
  model_file,
  mosaic,
  programs,
  rate_search,
  tiles,
  windowed,
)
from egic_jax.bitstream import quality as quality_lib
from egic_jax.bitstream import tables as tables_lib
from egic_jax.models import presets

# (parts done, parts in all).
Progress = Callable[[int, int], None]

# Trials that a search for a size usually takes, for `progress`.
_TYPICAL_TRIALS = 5
# Of --bpp: less than this below the lowest rate is as good as met.
_RATE_TOLERANCE = 0.02


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


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
  """A file of a size that was asked for.

  Attributes:
    data: the file.
    quality: that it was coded with.
    at_highest: the highest quality takes less than what was asked for.
    trials: how many times the picture was coded to find it.
  """

  data: bytes
  quality: float
  at_highest: bool
  trials: int


class ImageCodec:
  """Codes images with one model. Holds no state: calls may run in threads.

  Pictures of more than 1024 pixels a side are coded tile by tile, see `tiles`.
  Memory beyond that of the networks on one tile grows by 8 bytes a pixel (the
  image and its latents, of the full model), see `benchmarks/log.md`.

  Attributes:
    config: size of the model.
    fingerprint: 8 bytes that every file of this model carries.
    precision: "float32" or "bfloat16", see `from_model`.
  """

  def __init__(
    self,
    config: presets.CodecConfig,
    params: Mapping[str, Any],
    tables: Mapping[str, tables_lib.SymbolTables],
    fingerprint: bytes,
    precision: str = "auto",
  ):
    """See `from_model`; the others are the fields of `model_file.Model`."""
    self.config = config
    self.fingerprint = fingerprint
    self.precision = precision = programs.resolve_precision(precision)
    codec_params = jax.device_put(params["codec"])
    orp_params = None
    if "orp" in params:
      orp_params = jax.device_put(params["orp"])
    self._has_orp = orp_params is not None
    self._runner = batches.Runner(config)
    self._latent_coder = latents.LatentCoder(config, codec_params, tables)
    self._encoder = encoder.Encoder(
      config, codec_params, self._latent_coder, fingerprint, precision
    )
    self._decoder = decoder.Decoder(
      config,
      codec_params,
      orp_params,
      self._latent_coder,
      fingerprint,
      precision,
    )

  @classmethod
  def from_model(
    cls, model: model_file.Model, precision: str = "auto"
  ) -> "ImageCodec":
    """A codec with the model's parameters and tables.

    Args:
      model: what `model_file` reads or builds.
      precision: type that pictures are turned into latents and back in,
        "float32" or "bfloat16", which is faster on machines that multiply it
        faster, or "auto" (`programs.resolve_precision`). A file decodes to the
        same symbols either way, whichever it was made with; some of its symbols
        may be another when it is made, and the picture's values a level or two
        off when it is decoded.

    Raises:
      ValueError: another precision.
    """
    fields = (model.config, model.params, model.tables, model.fingerprint)
    return cls(*fields, precision)

  @property
  def quality_range(self) -> tuple[float, float] | None:
    """The lowest and the highest quality; None for a model of one rate."""
    levels = self.config.rate_levels
    return (1.0, float(levels)) if levels else None

  def encode(
    self,
    image: np.ndarray,
    quality: float | None = None,
    *,
    progress: Progress | None = None,
  ) -> bytes:
    """Codes an image of any size.

    Args:
      image: (H, W, 3) uint8, H and W at least 1.
      quality: in `quality_range`; the file holds the nearest of 255. None takes
        `bitstream.quality.default`, or what a model of one rate has.
      progress: called with the parts done and the parts in all.

    Returns:
      The content of an `.egic` file.

    Raises:
      ValueError: if `image` or `quality` is not as stated, or the model's
        latents are not finite.
    """
    _check_image(image)
    code = self._quality_code(quality)
    step = _steps(progress, sum(_parts(image.shape[:2])))
    analysed = self._encoder.analyse(image[None], 1, step)
    return self._encoder.files(analysed, code, step=step)[0]

  def encode_to(
    self,
    image: np.ndarray,
    *,
    max_bytes: int | None = None,
    bpp: float | None = None,
    progress: Progress | None = None,
  ) -> Fitted:
    """Codes an image to a size: pass one of `max_bytes` and `bpp`.

    The picture is analysed once and coded some five times. A target beyond the
    highest quality's size gives the highest quality.

    Args:
      image: (H, W, 3) uint8, H and W at least 1.
      max_bytes: the file is the largest that is not larger, at least 1.
      bpp: the file is the nearest to this many bits per pixel of the image,
        header included, above 0.
      progress: as in `encode`; the parts in all are a guess here.

    Raises:
      ValueError: as `encode`; if not one of the two is given, or not as stated;
        if the lowest quality takes more (2 % more than `bpp`), saying how much;
        if the model has one rate only.
    """
    _check_image(image)
    if not self.config.rate_levels:
      raise ValueError(
        "this model has one rate only: neither bytes nor bpp can be chosen"
      )
    target, search = _target_and_search(max_bytes, bpp)
    height, width = image.shape[:2]
    unit_bytes = 1 if bpp is None else height * width / 8
    windows, regions = _parts(image.shape[:2])
    total = windows + _TYPICAL_TRIALS * regions
    step = _steps(progress, total)
    analysed = self._encoder.analyse(image[None], 1, step)
    files: dict[int, bytes] = {}

    def size(code):
      (files[code],) = self._encoder.files(analysed, code, step=step)
      return len(files[code]) / unit_bytes

    found = search(size, target)
    lowest, highest = quality_lib.CODES[0], quality_lib.CODES[-1]
    if lowest in files:
      least = len(files[lowest])
      if bpp is None and found is None:
        raise ValueError(
          f"max_bytes is {max_bytes}, but this picture takes {least} bytes at"
          " the lowest quality: ask for as many, or for a smaller picture"
        )
      if bpp is not None and least / unit_bytes > bpp * (1 + _RATE_TOLERANCE):
        raise ValueError(
          f"bpp is {bpp}, but this picture takes {least / unit_bytes:.4f} at"
          " the lowest quality: ask for as much"
        )
    if progress is not None:
      progress(total, total)
    return Fitted(
      data=files[found],
      quality=self._quality_of(found),
      at_highest=found == highest and len(files[found]) < target * unit_bytes,
      trials=len(files),
    )

  def encode_batch(
    self, images: np.ndarray, quality: float | None = None
  ) -> list[bytes]:
    """Codes images of equal size, each network in one call for all of them.

    A batch of more than 4 million pixels takes several calls; on an accelerator
    any does, since two go side by side (`batches`). Programs are compiled for
    each number of images: prefer batches of one length.

    Args:
      images: (N, H, W, 3) uint8, H and W at least 1; N may be 0.
      quality: as in `encode`, for all.

    Returns:
      The content of one `.egic` file an image: as `encode`, save that sums taken
      in another order may round a latent otherwise.

    Raises:
      ValueError: as `encode`.
    """
    _check_image(images, batch=True)
    code = self._quality_code(quality)

    def encode(part, length):
      analysed = self._encoder.analyse(images[part], length, _steps(None, 0))
      return self._encoder.files(analysed, code)

    z_size = encoder.z_size(images.shape[1:3])
    return sum(self._runner.map(encode, "encode", len(images), z_size), [])

  def encode_with_parts(
    self, image: np.ndarray, quality: float | None = None
  ) -> Encoded:
    """`encode`, with the symbols and what each part of them cost."""
    _check_image(image)
    code = self._quality_code(quality)
    collected = mosaic.Mosaic(self.config, encoder.z_size(image.shape[:2]))
    bits = []

    def visit(region, payload):
      collected.add(region, payload.symbols)
      bits.append((payload.z_bits, *payload.y_bits))

    analysed = self._encoder.analyse(image[None], 1, _steps(None, 0))
    (data,) = self._encoder.files(analysed, code, visit=visit)
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
    header = self._decoder.unpack(data, max_pixels)
    total = len(header.payloads)
    total += len(windowed.synthesis_windows(header.z_size))
    step = _steps(progress, total)
    return self._decoder.pictures([header], alpha, 1, step)[0]

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
    headers = [self._decoder.unpack(data, max_pixels) for data in files]
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) != 1:
      raise ValueError(
        f"files hold pictures of {len(sizes)} sizes; pass at least one, all of"
        " one size"
      )

    def decode(part, length):
      return self._decoder.pictures(
        headers[part], alpha, length, _steps(None, 0)
      )

    name, z_size = ("decode", alpha == 1.0), headers[0].z_size
    return np.concatenate(self._runner.map(decode, name, len(headers), z_size))

  def decode_symbols(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> latents.Symbols:
    """The symbols in a file, of all tiles; raises as `decode` does."""
    header = self._decoder.unpack(data, max_pixels)
    collected = mosaic.Mosaic(self.config, header.z_size)
    for _, region, symbols, _ in self._decoder.tiles([header]):
      collected.add(region, symbols)
    return collected.symbols

  def inspect(
    self,
    data: bytes,
    *,
    max_pixels: int | None = container.DEFAULT_MAX_PIXELS,
  ) -> dict[str, Any]:
    """What `container.inspect` says, and the parts of the payloads.

    Returns:
      In addition quality, if the model has levels, z_bytes, a float, y_bytes, one float a slice, and
      rounding_bytes, those of y_bytes that make scale indices round alike
      everywhere: a payload is one stream, in which parts do not end at whole
      bytes.

    Raises:
      BitstreamError: as `decode`.
    """
    # A decoder cannot tell how far it has read to the bit: code once more.
    header = self._decoder.unpack(data, max_pixels)
    coded = [
      self._latent_coder.measure(symbols, region.coded(header.size))
      for _, region, symbols, _ in self._decoder.tiles([header])
    ]
    facts = container.inspect(data)
    if header.quality_code is not None:
      facts["quality"] = self._quality_of(header.quality_code)
    return {
      **facts,
      "z_bytes": sum(payload.z_bits for payload in coded) / 8,
      "y_bytes": (sum(payload.y_bits for payload in coded) / 8).tolist(),
      "rounding_bytes": sum(payload.rounding_bits for payload in coded) / 8,
    }

  def estimate_bits(
    self, image: np.ndarray, quality: float | None = None
  ) -> dict[str, Any]:
    """Information content by the model's densities, with real-valued scales.

    Args:
      image: (H, W, 3) uint8.
      quality: as in `encode`.

    Returns:
      z_bits, y_bits (one a slice) and bits, their sum.

    Raises:
      ValueError: if `image` or `quality` is not as stated.
    """
    _check_image(image)
    code = self._quality_code(quality)
    analysed = self._encoder.analyse(image[None], 1, _steps(None, 0))
    return self._encoder.estimate_bits(analysed, code)

  def nearest_quality(self, quality: float | None) -> float | None:
    """The quality that a file holds when this one is asked for.

    Args and errors as in `encode`. None for a model of one rate.
    """
    code = self._quality_code(quality)
    return None if code is None else self._quality_of(code)

  def _quality_of(self, code: int) -> float:
    return float(quality_lib.of_code(code, self.config.rate_levels))

  def _quality_code(self, quality: float | None) -> int | None:
    return quality_lib.to_code(quality, self.config.rate_levels)

  def _check_alpha(self, alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
      raise ValueError(f"alpha is {alpha}; it must lie in [0, 1]")
    if alpha != 1.0 and not self._has_orp:
      raise ValueError(
        f"alpha is {alpha}, but this model has no ORP head; use alpha 1"
      )


def _steps(progress: Progress | None, total: int) -> Callable[[], None]:
  """Returns what to call after each of `total` parts."""
  done = 0

  def step():
    nonlocal done
    done = min(done + 1, total)
    if progress is not None:
      progress(done, total)

  return step


def _target_and_search(
  max_bytes: int | None, bpp: float | None
) -> tuple[float, Callable]:
  """What to aim for and how, of `ImageCodec.encode_to`'s arguments."""
  if (max_bytes is None) == (bpp is None):
    raise ValueError(
      f"max_bytes is {max_bytes} and bpp is {bpp}; pass one of the two"
    )
  name, target, search = "max_bytes", max_bytes, rate_search.largest_within
  if max_bytes is None:
    name, target, search = "bpp", bpp, rate_search.nearest
  # Written so that nan fails as well.
  if not 0 < target < math.inf:
    raise ValueError(f"{name} is {target}; it must be above 0")
  return target, search


def _parts(size: tuple[int, int]) -> tuple[int, int]:
  """Windows of the analysis and tiles of a picture."""
  z_size = encoder.z_size(size)
  return len(windowed.analysis_windows(z_size)), tiles.count(*z_size)


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
