"""Files made to deceive: checksums right, content anything.

Each is refused in one line or decodes to the symbols of the file it was made
from; experiments/fuzzing does the same a hundred thousand times.
"""

import dataclasses
import pathlib
import struct
import zlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from egic_jax.bitstream import (
  codec,
  container,
  latents,
  programs,
  range_coder,
  scale_rounding,
  tiles,
)
from egic_jax.cli import main

_VECTORS = pathlib.Path(__file__).parents[1] / "fixtures/vectors/version_2"
_SIDES = (1, 63, 64, 65, 128, 1024, 1025, 16384, 2**28, 2**32 - 1)
_QUICK = hypothesis.settings(
  deadline=None,
  max_examples=100,
  # Session fixtures, which hold no state.
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def _with_checksum(body: bytes) -> bytes:
  return body + struct.pack("<I", zlib.crc32(body))


@pytest.fixture(scope="module")
def original(image_codec, picture):
  return image_codec.encode_with_parts(picture(37, 53))


@pytest.fixture(scope="module")
def other(image_codec, picture):
  return image_codec.encode(picture(64, 64))


@pytest.fixture(scope="module")
def fine(variable_codec, picture):
  return variable_codec.encode(picture(37, 53), 3.3)


@pytest.fixture(scope="module")
def coarse(variable_codec, picture):
  return variable_codec.encode(picture(64, 64), 1.0)


@pytest.fixture
def no_networks(model):
  """A codec that fails the test if a network is asked for anything."""

  def called(*args):
    raise AssertionError("a network was run")

  called.prepare = lambda *args: None  # Compiles, and runs nothing.
  refusing = codec.ImageCodec.from_model(model)
  fields = programs.Programs._fields
  nothing = programs.Programs(**dict.fromkeys(fields, called))
  refusing._decoder._programs = refusing._latent_coder._programs = nothing
  return refusing


def _check(image_codec, data: bytes, originals: tuple[bytes, ...]) -> None:
  """Refused in one line, or the symbols of one of the originals."""
  try:
    decoded = image_codec.decode_symbols(data)
  except container.BitstreamError as error:
    assert str(error) and "\n" not in str(error)
  else:
    assert decoded.checksum() in {
      container.unpack(original).symbol_checksum for original in originals
    }


_EDIT = st.tuples(
  st.sampled_from(["flip", "set", "cut", "insert", "append", "splice"]),
  st.floats(0, 1, exclude_max=True),
  st.binary(min_size=1, max_size=12),
)


@_QUICK
@hypothesis.given(edits=st.lists(_EDIT, min_size=1, max_size=4))
def test_edited_files(image_codec, original, other, edits):
  data = _edited(original.data, other, edits)
  _check(image_codec, data, (original.data, other))


@_QUICK
@hypothesis.given(
  edits=st.lists(_EDIT, max_size=4),
  version=st.integers(2, 3),
  code=st.integers(0, 255),
)
def test_edited_files_with_a_quality(
  variable_codec, fine, coarse, edits, version, code
):
  # Another quality code is a valid file, with the same symbols.
  data = bytearray(fine)
  data[4], data[15] = version, code
  data = _edited(bytes(data), coarse, edits)
  _check(variable_codec, data, (fine, coarse))


@pytest.mark.parametrize("code", [0, 1, 255])
def test_quality_codes(variable_codec, fine, code):
  assert fine[15] == container.unpack(fine).quality_code
  data = _with_checksum(fine[:15] + bytes((code,)) + fine[16:-4])
  if code:
    assert variable_codec.decode(data).shape == (37, 53, 3)
    return
  with pytest.raises(container.BitstreamError, match="quality code is 0"):
    variable_codec.decode(data)


def _edited(data: bytes, other: bytes, edits) -> bytes:
  """A file after edits, its checksum right."""
  body = data[:-4]
  for kind, where, value in edits:
    place = int(where * len(body))
    before, after = body[:place], body[place:]
    if kind == "flip":
      after = bytes(a ^ (1 << value[0] % 8) for a in after[:1]) + after[1:]
    elif kind == "set":
      after = value[:1] + after[1:]
    elif kind == "cut":
      after = after[len(value) :]
    elif kind == "insert":
      after = value + after
    elif kind == "append":
      after = after + value
    else:
      after = other[int(where * len(other)) : -4]
    body = before + after
  return _with_checksum(body)


@_QUICK
@hypothesis.given(payload=st.binary(max_size=200))
def test_any_payload(image_codec, original, payload):
  header = container.unpack(original.data)
  data = container.pack(dataclasses.replace(header, payloads=(payload,)))
  _check(image_codec, data, (original.data,))


@_QUICK
@hypothesis.given(
  height=st.sampled_from(_SIDES) | st.integers(1, 2**32 - 1),
  width=st.sampled_from(_SIDES) | st.integers(1, 2**32 - 1),
  payload=st.binary(max_size=20),
)
def test_any_size_with_little_behind_it(
  no_networks, original, height, width, payload
):
  # More than a tile each way: that many symbols of z are not in 20 bytes.
  height, width = height + 1024, width + 1024
  header = dataclasses.replace(
    container.unpack(original.data), height=height, width=width
  )
  sizes = container._encode_varint(height) + container._encode_varint(width)
  body = original.data[:13] + sizes + original.data[15:19]
  count = min(tiles.count(*header.z_size), 1000)
  body += (bytes((len(payload),)) + payload) * (count - 1) + payload
  for max_pixels in (container.DEFAULT_MAX_PIXELS, 2**34):
    with pytest.raises(container.BitstreamError):
      no_networks.decode(_with_checksum(body), max_pixels=max_pixels)


@pytest.mark.parametrize(
  "payload",
  [b"", bytes(50), b"\xff" * 50, b"0123456789"],
  ids=["nothing", "zeros", "ones", "digits"],
)
def test_the_largest_size_with_hardly_a_payload(no_networks, original, payload):
  header = container.unpack(original.data)
  side = 2**14
  data = container.pack(
    dataclasses.replace(
      header, height=side, width=side, payloads=(payload,) * 256
    )
  )
  # As a stream, ones are none of this coder's.
  reason = "not a stream" if 0xFF in payload else "ends before its symbols"
  with pytest.raises(container.BitstreamError, match=reason):
    no_networks.decode(data)


@pytest.mark.parametrize(
  "height, width", [(2**32 - 1, 1), (2**28, 1), (1, 2**27), (2**14, 2**14 + 1)]
)
def test_sizes_beyond_the_limit(no_networks, original, height, width):
  header = dataclasses.replace(
    container.unpack(original.data), height=height, width=width
  )
  count = min(tiles.count(*header.z_size), 2**19)
  sizes = container._encode_varint(height) + container._encode_varint(width)
  body = original.data[:13] + sizes + original.data[15:19] + bytes(count - 1)
  with pytest.raises(
    container.BitstreamError, match=r"limit of 268435456 .*\(max_pixels\)"
  ):
    no_networks.decode(_with_checksum(body))


def test_narrow_pictures_are_read(image_codec, picture):
  data = image_codec.encode(picture(1, 200))
  assert image_codec.decode(data, max_pixels=200).shape == (1, 200, 3)
  with pytest.raises(container.BitstreamError, match="limit of 199"):
    image_codec.decode(data, max_pixels=199)
  # 2**24 pixels, padded: still read by the smallest limit that admits it.
  tall = container.Container(bytes(8), 2**18, 1, 0, (b"",) * 256)
  assert container.unpack(container.pack(tall), max_pixels=2**18) == tall
  tall = dataclasses.replace(tall, height=2**18 + 1, payloads=(b"",) * 257)
  with pytest.raises(container.BitstreamError, match="take the memory"):
    container.unpack(container.pack(tall), max_pixels=2**20)


def test_streams_are_as_long_as_what_they_hold():
  # The first entry of every table: the stream is nothing but zeros.
  geometric = range_coder.CodingTables(scale_rounding.geometric_tables())
  last = geometric.high[:1].astype(np.int32)
  for symbol in (geometric.low[:1].astype(np.int32), last):
    encoder, index = range_coder.Encoder(), np.zeros(5000, np.int64)
    symbols = np.repeat(symbol, 5000)
    encoder.encode(symbols, index, geometric)
    data = encoder.get_bytes()
    assert 8 * len(data) > encoder.bits_spent - 64
    decoder = range_coder.Decoder(data)
    np.testing.assert_array_equal(decoder.decode(index, geometric), symbols)
    with pytest.raises(container.BitstreamError, match="ends before"):
      range_coder.Decoder(data[: len(data) // 2]).decode(index, geometric)


@pytest.mark.parametrize("shift", [-1, -3, -(2**31), scale_rounding.NUM_SHIFTS])
def test_shifts_that_there_are_not(shift):
  encoder = range_coder.Encoder()
  scale_rounding.ShiftCoder().encode(encoder, np.array([shift], np.int32))
  decoder = range_coder.Decoder(encoder.get_bytes())
  with pytest.raises(container.BitstreamError, match="holds a shift"):
    scale_rounding.ShiftCoder().decode(decoder, 10)


@pytest.mark.parametrize("extreme", [-(2**31), -(2**20), 2**20, 2**31 - 1])
@pytest.mark.parametrize("part", ["z", "y"])
def test_extreme_symbols_with_every_checksum_right(
  image_codec, original, extreme, part
):
  symbols = latents.Symbols(
    z=original.symbols.z.copy(),
    y=tuple(slice_.copy() for slice_ in original.symbols.y),
  )
  forged = symbols.z if part == "z" else symbols.y[0]
  forged[0, :2, :3, 0] = extreme
  payload = image_codec._latent_coder.measure(symbols, (3, 4)).data
  data = container.pack(
    dataclasses.replace(
      container.unpack(original.data),
      payloads=(payload,),
      symbol_checksum=symbols.checksum(),
    )
  )
  # A valid file, for all one can tell: some picture, of the declared size.
  decoded = image_codec.decode(data)
  assert decoded.shape == (37, 53, 3) and decoded.dtype == np.uint8
  assert image_codec.decode_symbols(data).checksum() == symbols.checksum()


def test_one_bad_file_fails_its_batch(image_codec, picture, original):
  body = original.data[:-4]
  bad = _with_checksum(body[:-3])
  with pytest.raises(container.BitstreamError):
    image_codec.decode_batch([original.data, bad])


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--max-pixels", "8384"], "limit of 8384 pixels"),
    (["--max-pixels", "8385"], None),
  ],
)
def test_limit_on_the_command_line(arguments, message, tmp_path, capsys):
  code = main.main(
    ["decompress", str(_VECTORS / "odd.egic"), "-o", str(tmp_path / "a.png")]
    + ["--model", str(_VECTORS / "model.safetensors"), *arguments]
  )
  error = capsys.readouterr().err
  if message:
    assert code == 1 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
  else:
    assert code == 0, error
    assert (tmp_path / "a.png").exists()
