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
  payload=b"some payload",
)


def _with_checksum(body):
  return body + struct.pack("<I", zlib.crc32(body))


@hypothesis.given(
  st.binary(min_size=8, max_size=8),
  st.integers(1, 2**32 - 1),
  st.integers(1, 2**32 - 1),
  st.integers(0, 2**32 - 1),
  st.binary(max_size=50),
)
def test_comes_back_with_little_overhead(
  fingerprint, height, width, checksum, payload
):
  fields = Container(fingerprint, height, width, checksum, payload)
  data = container.pack(fields)
  assert container.unpack(data, max_pixels=None) == fields
  assert 23 <= len(data) - len(payload) <= 31


def test_layout_byte_by_byte():
  body = b"EGIC\x01" + bytes(range(8)) + b"\xac\x02" + b"\x01"
  body += b"\xef\xbe\xad\xde" + b"some payload"
  assert container.pack(_SMALL) == _with_checksum(body)


def test_every_bit_flip_raises():
  data = container.pack(_SMALL)
  for bit in range(8 * len(data)):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BitstreamError) as caught:
      container.unpack(bytes(damaged))
    assert "\n" not in str(caught.value)


def test_every_truncation_raises():
  data = container.pack(_SMALL)
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


@pytest.mark.parametrize("version", [2, 3, 255])
def test_newer_version_is_told_apart_from_damage(version):
  for rest in (container.pack(_SMALL)[5:], b"", b"anything else"):
    data = b"EGIC" + bytes((version,)) + rest
    with pytest.raises(BitstreamError, match="newer than version 1") as caught:
      container.unpack(data)
    assert f"version {version}" in str(caught.value)


def test_version_zero_never_existed():
  body = container.pack(_SMALL)[:-4]
  with pytest.raises(BitstreamError, match="version 0"):
    container.unpack(_with_checksum(body[:4] + b"\0" + body[5:]))


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
  body = b"EGIC\x01" + bytes(8) + sizes
  # Some bytes to read on into, save where the header ends too soon.
  if "ends" not in message and "incomplete" not in message:
    body += bytes(8)
  with pytest.raises(BitstreamError, match=message):
    container.unpack(_with_checksum(body))


def test_declared_size_is_limited():
  fields = Container(bytes(8), 2**14, 2**14 + 1, 0, b"")
  data = container.pack(fields)
  with pytest.raises(BitstreamError, match="more than the limit"):
    container.unpack(data)
  assert container.unpack(data, max_pixels=2**29) == fields
  with pytest.raises(BitstreamError, match="limit of 100 pixels"):
    container.unpack(container.pack(_SMALL), max_pixels=100)
  assert container.unpack(container.pack(_SMALL), max_pixels=300) == _SMALL


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.binary(max_size=60), st.booleans())
def test_anything_is_read_or_refused(tail, has_checksum):
  data = b"EGIC\x01" + tail
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
    ({"version": 2}, "version is 2"),
  ],
)
def test_pack_refuses_what_does_not_fit(fields, message):
  with pytest.raises(ValueError, match=message):
    container.pack(Container(**{**vars(_SMALL), **fields}))


def test_inspect_needs_no_model():
  data = container.pack(_SMALL)
  assert container.inspect(data) == {
    "version": 1,
    "fingerprint": "0001020304050607",
    "height": 300,
    "width": 1,
    "bytes": len(data),
    "header_bytes": 24,
    "payload_bytes": 12,
    "bpp": 8 * len(data) / 300,
  }
