import dataclasses
import struct
import zlib

import hypothesis
import pytest
from hypothesis import strategies as st

from egic_jax.bitstream import container
from egic_jax.bitstream.container import BitstreamError, Container

_SMALL = Container(
  fingerprint=bytes(range(8)),
  height=300,
  width=1,
  symbol_checksum=0xDEADBEEF,
  payloads=(b"some payload",),
)
_WITH_QUALITY = dataclasses.replace(_SMALL, quality_code=200)
# Two rows of three tiles.
_TILED = Container(
  fingerprint=bytes(range(8)),
  height=1025,
  width=3000,
  symbol_checksum=1,
  payloads=(b"first", b"", bytes(200), b"4", b"five", b"last"),
)


def _with_checksum(body):
  return body + struct.pack("<I", zlib.crc32(body))


@hypothesis.given(
  st.binary(min_size=8, max_size=8),
  st.integers(1, 1024),
  st.integers(1, 1024),
  st.integers(0, 2**32 - 1),
  st.binary(max_size=50),
  st.none() | st.integers(1, 255),
)
def test_comes_back_with_little_overhead(
  fingerprint, height, width, checksum, payload, code
):
  fields = Container(fingerprint, height, width, checksum, (payload,), code)
  data = container.pack(fields)
  assert container.unpack(data, max_pixels=None) == fields
  quality_bytes = int(code is not None)
  assert 23 <= len(data) - len(payload) - quality_bytes <= 25


@hypothesis.given(st.integers(1, 5000), st.integers(1, 5000), st.data())
def test_tiles_come_back(height, width, data):
  count = -(-height // 1024) * -(-width // 1024)
  payloads = data.draw(
    st.lists(st.binary(max_size=300), min_size=count, max_size=count)
  )
  fields = Container(bytes(8), height, width, 0, tuple(payloads))
  assert container.unpack(container.pack(fields)) == fields


def test_layout_byte_by_byte():
  body = b"EGIC\x02" + bytes(range(8)) + b"\xac\x02" + b"\x01"
  body += b"\xef\xbe\xad\xde" + b"some payload"
  assert container.pack(_SMALL) == _with_checksum(body)
  body = b"EGIC\x03" + body[5:16] + b"\xc8" + body[16:]
  assert container.pack(_WITH_QUALITY) == _with_checksum(body)
  assert (_SMALL.version, _WITH_QUALITY.version) == (2, 3)
  body = b"EGIC\x02" + bytes(range(8)) + b"\x81\x08" + b"\xb8\x17"
  body += b"\1\0\0\0" + b"\5first" + b"\0" + b"\xc8\x01" + bytes(200)
  body += b"\1" + b"4" + b"\4five" + b"last"
  assert container.pack(_TILED) == _with_checksum(body)


@pytest.mark.parametrize("fields", [_SMALL, _WITH_QUALITY, _TILED])
def test_every_bit_flip_raises(fields):
  data = container.pack(fields)
  for bit in range(8 * len(data)):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError) as caught:
      container.unpack(bytes(damaged))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [_SMALL, _WITH_QUALITY, _TILED])
def test_every_truncation_raises(fields):
  data = container.pack(fields)
  for length in range(len(data)):
    with pytest.raises(BitstreamError, match="truncated or damaged"):
      container.unpack(data[:length])


def test_every_extension_raises():
  data = container.pack(_SMALL)
  for extra in (b"\0", b"x", data, bytes(100)):
    with pytest.raises(BitstreamError, match="truncated or damaged"):
      container.unpack(data + extra)


@pytest.mark.parametrize(
  "data", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"E", b"EGIX", b"JFIF", b"\0"]
)
def test_foreign_file(data):
  if container.MAGIC.startswith(data):
    with pytest.raises(BitstreamError, match="truncated"):
      container.unpack(data)
  else:
    with pytest.raises(BitstreamError, match=r"not an \.egic file"):
      container.unpack(data)


@pytest.mark.parametrize("version", [4, 5, 255])
def test_newer_version_is_told_apart_from_damage(version):
  for rest in (container.pack(_SMALL)[5:], b"", b"anything else"):
    data = b"EGIC" + bytes((version,)) + rest
    with pytest.raises(BitstreamError, match="newer than version 3") as caught:
      container.unpack(data)
    assert f"version {version}" in str(caught.value)


@pytest.mark.parametrize("version", [0, 1])
def test_versions_that_were_never_released(version):
  body = container.pack(_SMALL)[:-4]
  with pytest.raises(BitstreamError, match=f"version {version} was never"):
    container.unpack(_with_checksum(body[:4] + bytes((version,)) + body[5:]))


def test_a_version_taken_for_the_other_is_noticed():
  # Its quality code becomes the first byte of the symbol checksum, or back.
  for fields, version in ((_SMALL, 3), (_WITH_QUALITY, 2)):
    body = bytearray(container.pack(fields)[:-4])
    body[4] = version
    assert container.unpack(_with_checksum(bytes(body))) != fields
  body = bytearray(container.pack(_SMALL)[:-4])
  body[4], body[16] = 3, 0
  with pytest.raises(BitstreamError, match="quality code is 0"):
    container.unpack(_with_checksum(bytes(body)))


@pytest.mark.parametrize(
  "sizes, message",
  [
    (b"\x00\x01", "height is 0"),
    (b"\x01\x00", "width is 0"),
    (b"\x80\x00\x01", "height is badly spelled"),
    (b"\x81\x80\x00\x01", "height is badly spelled"),
    (b"\x80\x80\x80\x80\x80\x01\x01", "height takes more than 5"),
    (b"\x01" + b"\xff" * 8, "width takes more than 5"),
    (b"\xff\xff\xff\xff\x7f\x01", "height is 34359738367"),
    (b"\x01\x80", "ends within its width"),
    (b"", "ends within its height"),
    (b"\x01\x01\0\0\0", "header is incomplete"),
  ],
)
def test_header_is_checked_even_when_the_checksum_is_right(sizes, message):
  body = b"EGIC\x02" + bytes(8) + sizes
  # Some bytes to read on into, save where the header ends too soon.
  if "ends" not in message and "incomplete" not in message:
    body += bytes(8)
  with pytest.raises(BitstreamError, match=message):
    container.unpack(_with_checksum(body))


# 1025 x 3000 pixels, six tiles.
_TILED_HEADER = b"EGIC\x02" + bytes(8) + b"\x81\x08" + b"\xb8\x17" + bytes(4)


@pytest.mark.parametrize(
  "payloads, message",
  [
    (b"", "too short for the 6 tiles"),
    (bytes(4), "too short for the 6 tiles"),
    (b"\6" + bytes(5), "length of tile 1 of 6 is 6, past its end"),
    (b"\xff\xff\xff\xff\x0f" + bytes(9), "is 4294967295, past its end"),
    (
      b"\xff\xff\xff\xff\x7f" + bytes(9),
      "length of tile 1 of 6 is 34359738367",
    ),
    (b"\0\x80\0" + bytes(9), "length of tile 2 of 6 is badly spelled"),
    (b"\x80" * 9, "length of tile 1 of 6 takes more than 5"),
    (bytes(4) + b"\x80", "ends within its length of tile 5 of 6"),
    (b"\5" + bytes(5), "ends within its length of tile 2 of 6"),
  ],
)
def test_lengths_of_tiles_are_checked(payloads, message):
  with pytest.raises(BitstreamError, match=message):
    container.unpack(_with_checksum(_TILED_HEADER + payloads))


def test_no_work_for_tiles_that_cannot_be_there():
  # 2**64 pixels, 2**44 tiles, in a file of 31 bytes.
  sides = b"\xff\xff\xff\xff\x0f" * 2
  data = _with_checksum(b"EGIC\x02" + bytes(8) + sides + bytes(4))
  with pytest.raises(BitstreamError, match="too short for the 17592186044416"):
    container.unpack(data, max_pixels=None)


def test_declared_size_is_limited():
  fields = Container(bytes(8), 2**14, 2**14 + 1, 0, (b"",) * 16 * 17)
  data = container.pack(fields)
  with pytest.raises(BitstreamError, match="more than the limit"):
    container.unpack(data)
  assert container.unpack(data, max_pixels=2**29) == fields
  with pytest.raises(BitstreamError, match="limit of 100 pixels"):
    container.unpack(container.pack(_SMALL), max_pixels=100)
  assert container.unpack(container.pack(_SMALL), max_pixels=300) == _SMALL


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.binary(max_size=60), st.booleans(), st.integers(2, 3))
def test_anything_is_read_or_refused(tail, has_checksum, version):
  data = b"EGIC" + bytes((version,)) + tail
  try:
    container.unpack(_with_checksum(data) if has_checksum else data)
  except BitstreamError as error:
    assert "\n" not in str(error)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"height": 0}, "height is 0"),
    ({"width": 2**32}, "width is 4294967296"),
    ({"fingerprint": b"short"}, "fingerprint has 5 bytes"),
    ({"symbol_checksum": -1}, "symbol_checksum is -1"),
    ({"quality_code": 0}, "quality_code is 0"),
    ({"quality_code": 256}, "quality_code is 256"),
    ({"payloads": ()}, "300 x 1 pixels has 1 tiles"),
    ({"width": 1025}, "payloads are 1; a picture"),
  ],
)
def test_pack_refuses_what_does_not_fit(fields, message):
  with pytest.raises(ValueError, match=message):
    container.pack(Container(**{**vars(_SMALL), **fields}))


def test_inspect_needs_no_model():
  data = container.pack(_SMALL)
  assert container.inspect(data) == {
    "version": 2,
    "fingerprint": "0001020304050607",
    "height": 300,
    "width": 1,
    "tiles": 1,
    "bytes": len(data),
    "header_bytes": 24,
    "payload_bytes": 12,
    "bpp": 8 * len(data) / 300,
  }
  facts = container.inspect(container.pack(_WITH_QUALITY))
  assert facts["quality_code"] == 200 and facts["version"] == 3
  assert (facts["header_bytes"], facts["payload_bytes"]) == (25, 12)
