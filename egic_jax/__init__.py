"""EGIC: generative image compression in JAX.

    import egic_jax

    codec = egic_jax.load_model()  # The default; or the name or path of one.
    data = egic_jax.encode(codec, image)  # (H, W, 3) uint8 > bytes
    image = egic_jax.decode(codec, data)  # bytes > (H, W, 3) uint8

    data = egic_jax.encode(codec, image, bpp=0.15)
    codec = egic_jax.load_model_of(data)  # Of a file of any shipped model.

    files = egic_jax.encode_batch(codec, images)  # (N, H, W, 3) uint8 > N bytes
    images = egic_jax.decode_batch(codec, files)

Importing this package imports neither jax nor TensorFlow nor torch; the first
call does what it needs.
"""

import typing

if typing.TYPE_CHECKING:
  import os
  from collections.abc import Sequence

  import numpy as np

  from egic_jax.bitstream.codec import ImageCodec

__version__ = "0.1.0"
__all__ = [
  "decode",
  "decode_batch",
  "encode",
  "encode_batch",
  "load_model",
  "load_model_of",
]


def load_model(
  model: "str | os.PathLike | None" = None, *, precision: str = "auto"
) -> "ImageCodec":
  """Opens a model.

  Args:
    model: the name of a shipped model (`egic models` lists them), a model file
      of `egic export`, or a work directory of `egic train`. None opens the
      default of the shipped models.
    precision: type that pictures are turned into latents and back in. With
      "bfloat16" a symbol of a file may be another, and values of a decoded
      picture a level or two off; large models are faster where the processor
      has instructions for it. "auto" is "float32" on a CPU and "bfloat16" on a
      GPU or TPU. Files decode everywhere, whichever made them.

  Returns:
    A codec. It and the functions below may be used from several threads; its
    methods `encode_to`, `inspect` and `estimate_bits` tell more.

  Raises:
    ValueError, OSError: in one line, if there is no usable model.
  """
  from egic_jax.cli import models

  return models.open_codec(model, precision)


def load_model_of(data: bytes, *, precision: str = "auto") -> "ImageCodec":
  """Opens the shipped model that made an `.egic` file.

  Args:
    data: the file's content.
    precision: as in `load_model`.

  Raises:
    ValueError: in one line, if it is no such file, or made by no such model.
  """
  from egic_jax.cli import models

  return models.FileCodecs(None, precision).of(data)


def encode(
  codec: "ImageCodec",
  image: "np.ndarray",
  quality: float | None = None,
  *,
  bpp: float | None = None,
  max_bytes: int | None = None,
) -> bytes:
  """(H, W, 3) uint8 of any size > content of an `.egic` file.

  Args:
    codec: of `load_model`.
    image: the picture.
    quality: in `codec.quality_range`; None for its middle. Of it, bpp and
      max_bytes at most one may be given, and only to a model of several rates.
    bpp: bits per pixel that the file is to have, or nearly.
    max_bytes: the file is to be as good as so many bytes allow.

  Raises:
    ValueError: if `image` is of another shape or type, or the picture cannot be
      had at this quality or size.
  """
  if bpp is None and max_bytes is None:
    return codec.encode(image, quality)
  if quality is not None:
    raise ValueError(
      f"quality is {quality}, but a size is given too; leave out one of them"
    )
  return codec.encode_to(image, bpp=bpp, max_bytes=max_bytes).data


def decode(
  codec: "ImageCodec",
  data: bytes,
  alpha: float = 1.0,
  *,
  max_pixels: int | None = 2**28,
) -> "np.ndarray":
  """Content of an `.egic` file > (H, W, 3) uint8.

  Args:
    codec: of `load_model`.
    data: what `encode` returned.
    alpha: 1 most realistic, 0 least distortion; other than 1 needs a model with
      an ORP head.
    max_pixels: refuse files that declare more pixels; None accepts any.

  Raises:
    ValueError: in one line, if the file is foreign, damaged, too large or of
      another model, or `alpha` cannot be had.
  """
  return codec.decode(data, alpha, max_pixels=max_pixels)


def encode_batch(
  codec: "ImageCodec", images: "np.ndarray", quality: float | None = None
) -> list[bytes]:
  """(N, H, W, 3) uint8 > N files' contents, the networks run on all at once.

  Raises:
    ValueError: if `images` are of another shape or type, or the model has no
      such quality.
  """
  return codec.encode_batch(images, quality)


def decode_batch(
  codec: "ImageCodec",
  files: "Sequence[bytes]",
  alpha: float = 1.0,
  *,
  max_pixels: int | None = 2**28,
) -> "np.ndarray":
  """Contents of N files of pictures of one size > (N, H, W, 3) uint8.

  Args and errors as in `decode`; a ValueError also if sizes differ or there is
  no file.
  """
  return codec.decode_batch(files, alpha, max_pixels=max_pixels)
