"""EGIC: generative image compression in JAX.

    import egic_jax

    codec = egic_jax.load_model("model.safetensors")
    data = egic_jax.encode(codec, image)  # (H, W, 3) uint8 > bytes
    image = egic_jax.decode(codec, data)  # bytes > (H, W, 3) uint8

Importing this package imports neither jax nor TensorFlow nor torch; the first
call does what it needs.
"""

import typing

if typing.TYPE_CHECKING:
  import os

  import numpy as np

  from egic_jax.bitstream.codec import ImageCodec

__version__ = "0.1.0"
__all__ = ["decode", "encode", "load_model"]


def load_model(path: "str | os.PathLike") -> "ImageCodec":
  """Opens a model.

  Args:
    path: a model file of `egic export`, or a work directory of `egic train`.

  Returns:
    A codec; its methods `encode`, `decode`, `inspect` and `estimate_bits` may
    be called from several threads.

  Raises:
    ValueError, OSError: in one line, if there is no usable model.
  """
  from egic_jax.cli import models

  return models.open_codec(path)


def encode(codec: "ImageCodec", image: "np.ndarray") -> bytes:
  """(H, W, 3) uint8 of any size > content of an `.egic` file.

  Raises:
    ValueError: if `image` is of another shape or type.
  """
  return codec.encode(image)


def decode(
  codec: "ImageCodec", data: bytes, alpha: float = 1.0
) -> "np.ndarray":
  """Content of an `.egic` file > (H, W, 3) uint8.

  Args:
    codec: of `load_model`.
    data: what `encode` returned.
    alpha: 1 most realistic, 0 least distortion; other than 1 needs a model with
      an ORP head.

  Raises:
    ValueError: in one line, if the file is foreign, damaged or of another
      model, or `alpha` cannot be had.
  """
  return codec.decode(data, alpha)
