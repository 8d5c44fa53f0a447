import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, features

from egic_jax import images


def _ramp(height=20, width=30):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _file(image, image_format="PNG", **options):
  buffer = io.BytesIO()
  image.save(buffer, image_format, **options)
  return buffer.getvalue()


def test_path_bytes_and_file_object_agree(tmp_path):
  pixels = _ramp()
  path = tmp_path / "a.png"
  data = _file(Image.fromarray(pixels))
  path.write_bytes(data)
  for source in (path, str(path), data, bytearray(data), io.BytesIO(data)):
    read = images.read(source)
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == np.uint8
    read[0, 0] = 0  # The caller may write to it.
  with open(path, "rb") as file:
    np.testing.assert_array_equal(images.read(file), pixels)
    assert not file.closed


# What the eight orientations do to an image when they are undone.
_UPRIGHT = {
  1: lambda a: a,
  2: lambda a: a[:, ::-1],
  3: lambda a: a[::-1, ::-1],
  4: lambda a: a[::-1],
  5: lambda a: a.transpose(1, 0, 2),
  6: lambda a: np.rot90(a, -1),
  7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
  8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation, image_format):
  pixels = _ramp()
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = _file(Image.fromarray(pixels), image_format, exif=exif)
  np.testing.assert_array_equal(
    images.read(data), _UPRIGHT[orientation](pixels)
  )


def test_grey_is_repeated():
  grey = _ramp()[..., 0]
  read = images.read(_file(Image.fromarray(grey)))
  np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, -1))


def test_black_and_white():
  bits = _ramp()[..., 0] > 128
  read = images.read(_file(Image.fromarray(bits)))
  np.testing.assert_array_equal(read[..., 0], bits * np.uint8(255))


def test_palette_is_looked_up():
  palette = np.array([[9, 8, 7], [250, 1, 2], [3, 140, 5]], np.uint8)
  indices = _ramp()[..., 0] % 3
  image = Image.fromarray(indices, "P")
  image.putpalette(palette.tobytes())
  for image_format in ("PNG", "GIF"):
    read = images.read(_file(image, image_format))
    np.testing.assert_array_equal(read, palette[indices])


def test_transparent_palette_entry_is_white():
  indices = _ramp()[..., 0] % 2
  image = Image.fromarray(indices, "P")
  image.putpalette([10, 20, 30, 40, 50, 60])
  read = images.read(_file(image, transparency=1))
  assert (read[indices == 1] == 255).all()
  assert (read[indices == 0] == [10, 20, 30]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode):
  rng = np.random.default_rng(0)
  channels = len(mode)
  pixels = rng.integers(0, 256, (16, 16, channels), dtype=np.uint8)
  pixels[0, :, -1], pixels[1, :, -1] = 0, 255
  read = images.read(_file(Image.fromarray(pixels)))
  colour = pixels[..., :-1].astype(float) * np.ones(3)
  alpha = pixels[..., -1:] / 255
  expected = alpha * colour + (1 - alpha) * 255
  assert np.abs(read - expected).max() <= 1
  np.testing.assert_array_equal(read[0], 255)
  np.testing.assert_array_equal(read[1], colour[1])


def test_transparent_colour_is_white():
  pixels = _ramp()
  pixels[3:5] = (1, 2, 3)
  read = images.read(_file(Image.fromarray(pixels), transparency=(1, 2, 3)))
  assert (read[3:5] == 255).all()
  np.testing.assert_array_equal(read[:3], pixels[:3])


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_rounded(image_format):
  grey = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
  read = images.read(_file(Image.fromarray(grey), image_format))
  expected = np.round(grey / 257).astype(np.uint8)
  np.testing.assert_array_equal(read, np.repeat(expected[..., None], 3, -1))


def test_16_bit_transparent_grey_is_white():
  grey = np.full((4, 4), 1000, np.uint16)
  grey[0] = 40000
  read = images.read(_file(Image.fromarray(grey), transparency=40000))
  assert (read[0] == 255).all() and (read[1:] == 4).all()


def test_32_bit_samples_of_16_bits_are_scaled():
  grey = np.array([[0, 257, 65535]], np.int32)
  read = images.read(_file(Image.fromarray(grey), "TIFF"))
  assert read[0, :, 0].tolist() == [0, 1, 255]
  with pytest.raises(images.ImageError, match="samples from 0 to 70000"):
    grey[0, 2] = 70000
    images.read(_file(Image.fromarray(grey), "TIFF"))


def test_16_bit_colour_is_scaled():
  data = _png_16_bit_rgb(np.array([[[0, 32768, 65535]]], ">u2"))
  np.testing.assert_array_equal(images.read(data), [[[0, 128, 255]]])


def _png_16_bit_rgb(samples, size=None):
  """Pillow does not write these."""

  def chunk(name, content):
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + crc.to_bytes(4)

  height, width = size or samples.shape[:2]
  header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
  rows = b"".join(b"\0" + row.tobytes() for row in samples)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


def test_cmyk_is_converted():
  cmyk = np.zeros((8, 8, 4), np.uint8)
  cmyk[..., 1:3] = 255  # Magenta and yellow make red.
  image = Image.fromarray(cmyk, "CMYK")
  read = images.read(_file(image, "TIFF"))
  np.testing.assert_array_equal(read, np.full((8, 8, 3), [255, 0, 0]))
  read = images.read(_file(image, "JPEG", quality=95))
  assert np.abs(read.astype(int) - [255, 0, 0]).max() < 8


def test_animation_gives_its_first_frame():
  frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
  for image_format in ("GIF", "PNG"):
    data = _file(
      frames[0], image_format, save_all=True, append_images=frames[1:]
    )
    np.testing.assert_array_equal(
      images.read(data), np.full((8, 8, 3), [255, 0, 0])
    )


def test_float_samples_are_refused():
  image = Image.fromarray(np.full((4, 4), 0.5, np.float32))
  with pytest.raises(images.ImageError, match="floating-point"):
    images.read(_file(image, "TIFF"))


def _assert_refused(source, message):
  with pytest.raises(images.ImageError, match=message) as caught:
    images.read(source)
  assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path):
  _assert_refused(tmp_path / "none.png", "cannot read .*none.png: no such file")
  _assert_refused(tmp_path, "is a directory")
  _assert_refused("a\0b", "cannot read")
  (tmp_path / "text.png").write_text("no picture")
  _assert_refused(tmp_path / "text.png", "text.png is not a picture")
  _assert_refused(b"", "the data is not a picture")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_truncated_pictures_are_refused(image_format):
  data = _file(Image.fromarray(_ramp(64, 64)), image_format)
  # What follows the last sample, such as a checksum, Pillow does not miss.
  last = len(data) - 200
  for length in range(0, last, max(1, last // 40)):
    _assert_refused(data[:length], "not a picture|truncated or damaged")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_flipped_bits_never_escape_as_other_errors(image_format):
  data = _file(Image.fromarray(_ramp(24, 24)), image_format)
  rng = np.random.default_rng(0)
  for _ in range(200):
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    try:
      read = images.read(bytes(damaged))
    except images.ImageError as error:
      assert "\n" not in str(error)
    else:
      assert read.ndim == 3 and read.shape[-1] == 3


def test_declared_size_is_checked_before_decoding():
  data = _file(Image.fromarray(_ramp(20, 30)))
  assert images.read(data, max_pixels=600).shape == (20, 30, 3)
  with pytest.raises(images.ImageError, match="30 x 20 pixels, more than"):
    images.read(data, max_pixels=599)
  # A header of 1e6 pixels a side, and no pixels.
  bomb = _png_16_bit_rgb(np.zeros((0, 1, 3), ">u2"), size=(10**6, 10**6))
  _assert_refused(bomb, "the data has too many pixels")


def test_large_pictures_do_not_warn():
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    data = _file(Image.new("1", (10000, 9000)))
    assert images.read(data).shape == (9000, 10000, 3)


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".ppm", ".tif"])
def test_write_without_loss(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  images.write(path, _ramp())
  np.testing.assert_array_equal(images.read(path), _ramp())
  assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(not features.check("webp"), reason="Pillow without WebP")
def test_webp_is_written_without_loss(tmp_path):
  images.write(tmp_path / "a.webp", _ramp())
  np.testing.assert_array_equal(images.read(tmp_path / "a.webp"), _ramp())


def test_jpeg_is_written_well(tmp_path):
  smooth = np.add.outer(np.arange(64), np.arange(64))[..., None] + [0, 40, 80]
  smooth = smooth.astype(np.uint8)
  for suffix in (".jpg", ".jpeg"):
    images.write(tmp_path / f"a{suffix}", smooth)
    read = images.read(tmp_path / f"a{suffix}")
    assert np.abs(read.astype(int) - smooth).mean() < 2


def test_encode_gives_the_file_content():
  data = images.encode(_ramp())
  assert data.startswith(b"\x89PNG")
  np.testing.assert_array_equal(images.read(data), _ramp())


def test_what_cannot_be_written(tmp_path):
  with pytest.raises(images.ImageError, match=r"unknown suffix '\.xyz'.*\.png"):
    images.write(tmp_path / "a.xyz", _ramp())
  with pytest.raises(images.ImageError, match="unknown suffix ''"):
    images.save_options("png")
  with pytest.raises(images.ImageError, match="none/a.png: no such file"):
    images.write(tmp_path / "none" / "a.png", _ramp())
  with pytest.raises(ValueError, match=r"pass \(H, W, 3\) uint8"):
    images.write(tmp_path / "a.png", _ramp() / 255)
  # Wider than the format can express.
  with pytest.raises(images.ImageError, match="cannot write .*a.jpg"):
    images.write(tmp_path / "a.jpg", np.zeros((1, 70000, 3), np.uint8))
  assert os.listdir(tmp_path) == []
