"""Pictures from and to files, by Pillow; nothing of the codec."""

import io
import os
import struct
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from egic_jax import atomic_files

# Pillow itself refuses more than twice its MAX_IMAGE_PIXELS.
DEFAULT_MAX_PIXELS = 2 * 89_478_485

# Lossless where the format can be: what is written is a result to look at and
# to measure, and should be compressed once only, by the codec.
_SAVE_OPTIONS = {
  # Of nine levels: the usual 6 takes 2.5 times as long for 2 % fewer bytes.
  ".png": {"format": "PNG", "compress_level": 4},
  ".webp": {"format": "WEBP", "lossless": True},
  ".bmp": {"format": "BMP"},
  ".ppm": {"format": "PPM"},
  ".tif": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
  ".tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
  ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
  ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}

# What Pillow's decoders raise on broken files, by experience.
_BROKEN = (
  OSError,
  ValueError,
  SyntaxError,
  struct.error,
  EOFError,
  IndexError,
  KeyError,
  TypeError,
  AttributeError,
  OverflowError,
  ZeroDivisionError,
  RuntimeError,
)


class ImageError(ValueError):
  """A picture that cannot be read or written; the message is one line."""


def read(
  source: str | os.PathLike | bytes | BinaryIO,
  *,
  max_pixels: int = DEFAULT_MAX_PIXELS,
) -> np.ndarray:
  """Reads a picture of any kind as 8-bit RGB.

  The EXIF orientation is applied. Grey is repeated, palettes are looked up,
  CMYK is converted. Transparency is composited on white. Sixteen bits a sample
  are scaled to eight and rounded (of 16-bit colour, Pillow itself keeps the
  upper eight bits). Of an animation, the first frame is read. Colour profiles
  are ignored: samples are taken to be sRGB.

  Args:
    source: a path, a file's content, or a binary file object.
    max_pixels: the largest height x width that is decoded.

  Returns:
    (H, W, 3) uint8.

  Raises:
    ImageError: if the file is missing, is not a picture, is truncated, has too
      many pixels, or has samples whose range is not known (floating point).
  """
  name, file = _open(source)
  try:
    # Pillow warns of large pictures and of damage; it is refused or it is not.
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      with Image.open(file) as image:
        width, height = image.size
        if width * height > max_pixels:
          raise ImageError(
            f"{name} has {width} x {height} pixels, more than the limit of"
            f" {max_pixels}"
          )
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), name)
  except ImageError:
    raise
  except Image.UnidentifiedImageError as error:
    raise ImageError(f"{name} is not a picture that Pillow knows") from error
  except Image.DecompressionBombError as error:
    raise ImageError(f"{name} has too many pixels: {_line(error)}") from error
  except _BROKEN as error:
    raise ImageError(
      f"{name} is truncated or damaged: {_line(error)}"
    ) from error
  finally:
    if file is not source:
      file.close()


def write(path: str | os.PathLike, image: np.ndarray) -> None:
  """Writes a picture, its format chosen by the suffix, whole or not at all.

  PNG, WebP, BMP, PPM and TIFF are written without loss, JPEG at quality 95.

  Args:
    path: ends in .png, .webp, .bmp, .ppm, .tif, .tiff, .jpg or .jpeg.
    image: (H, W, 3) uint8.

  Raises:
    ImageError: if the suffix is not known, the picture does not fit the
      format, or the file cannot be written.
    ValueError: if `image` is not (H, W, 3) uint8.
  """
  data = encode(image, path)
  try:
    atomic_files.write_bytes(path, data)
  except OSError as error:
    raise ImageError(_line(error)) from error


def encode(image: np.ndarray, path: str | os.PathLike = "image.png") -> bytes:
  """What `write` would write to `path`; raises as it does."""
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
    raise ValueError(
      f"image is {image.dtype} of shape {image.shape}; pass (H, W, 3) uint8"
    )
  options = save_options(path)
  buffer = io.BytesIO()
  try:
    Image.fromarray(image).save(buffer, **options)
  except _BROKEN as error:
    raise ImageError(f"cannot write {os.fspath(path)}: {_line(error)}") from (
      error
    )
  return buffer.getvalue()


def save_options(path: str | os.PathLike) -> dict[str, object]:
  """How Pillow is to save to this path; ImageError if the suffix is unknown.

  Lets a program refuse a name before it has spent time on the picture.
  """
  name = os.fspath(path)
  suffix = os.path.splitext(name)[1].lower()
  if suffix not in _SAVE_OPTIONS:
    raise ImageError(
      f"cannot write {name}: unknown suffix {suffix!r}; use one of"
      f" {' '.join(_SAVE_OPTIONS)}"
    )
  return _SAVE_OPTIONS[suffix]


def _open(source) -> tuple[str, BinaryIO]:
  """Returns (what to call it in messages, binary file)."""
  if isinstance(source, bytes | bytearray | memoryview):
    return "the data", io.BytesIO(source)
  if not isinstance(source, str | os.PathLike):
    return str(getattr(source, "name", "the data")), source
  name = os.fspath(source)
  try:
    return name, open(name, "rb")
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or str(error)
    raise ImageError(f"cannot read {name}: {reason.lower()}") from error


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
  """(H, W, 3) uint8 from an image of any mode."""
  if image.mode == "F":
    raise ImageError(
      f"{name} has floating-point samples of unknown range; convert it to 8 or"
      " 16 bits first"
    )
  if image.mode.startswith("I"):
    return _grey16_to_rgb(image, name)
  if image.mode == "RGB" and "transparency" not in image.info:
    return np.array(image)
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image)
  return np.array(image.convert("RGB"))


def _grey16_to_rgb(image: Image.Image, name: str) -> np.ndarray:
  """Pillow would clip 16 bits to 8; this scales them, rounding to nearest."""
  samples = np.array(image).astype(np.int64)
  if samples.min() < 0 or samples.max() > 65535:
    raise ImageError(
      f"{name} has samples from {samples.min()} to {samples.max()}; only 8 and"
      " 16 bits are understood"
    )
  grey = ((samples + 128) // 257).astype(np.uint8)
  transparent = image.info.get("transparency")
  if isinstance(transparent, int):
    grey[samples == transparent] = 255
  return np.repeat(grey[..., None], 3, axis=-1)


def _line(error: Exception) -> str:
  return " ".join(str(error).split()) or type(error).__name__
