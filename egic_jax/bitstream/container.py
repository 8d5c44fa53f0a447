"""The `.egic` file: what surrounds the range-coded payloads.

    magic            4 bytes   b"EGIC"
    version          1 byte    2, or 3 of models for several rates
    fingerprint      8 bytes   of the model that made the file
    height           LEB128    1 to 5 bytes, at least 1
    width            LEB128    1 to 5 bytes, at least 1
    quality code     1 byte    at least 1; version 3 only
    symbol checksum  4 bytes   CRC-32 of the decoded symbols, little-endian
    payloads         the rest  one a tile, row by row; each but the last behind
                               its length, LEB128, 1 to 5 bytes
    file checksum    4 bytes   CRC-32 of everything before it, little-endian

How many tiles there are follows from height and width (`tiles`). The last
payload needs no length: it ends four bytes before the end of the file. Around
the payload of a picture of one tile lie 23 to 32 bytes. `unpack` checks
everything that can be checked without a model, and does so before anything is
allocated in proportion to what the header declares.
"""

import dataclasses
import struct
import zlib
from typing import Any

from egic_jax.bitstream import tiles

MAGIC = b"EGIC"
# Written for models of one rate, and for models of several.
SINGLE_RATE_VERSION = 2
VERSION = 3
FINGERPRINT_BYTES = 8
MAX_SIDE = 2**32 - 1
MAX_QUALITY_CODE = 255
DEFAULT_MAX_PIXELS = 2**28
# Pixels per element of z, along a side: in every model, and thus in the format.
STRIDE = 64

# Padded pixels accepted whatever the limit: latents of 134 MB, full model.
_ALWAYS_PADDED = 2**24
_VARINT_MAX_BYTES = 5
_CHECKSUM = struct.Struct("<I")
_DAMAGED = "the file is truncated or damaged"


class BitstreamError(ValueError):
  """A file that is foreign, damaged, too new, or made by another model."""


@dataclasses.dataclass(frozen=True)
class Container:
  """What a file says.

  Attributes:
    fingerprint: 8 bytes naming the model that made the file.
    height: rows of the image, in pixels, at least 1.
    width: columns of the image, in pixels, at least 1.
    symbol_checksum: CRC-32 of all symbols, in [0, 2**32).
    payloads: the range-coded symbols of each tile, row by row.
    quality_code: in [1, 255], what `quality` makes a quality of; None for a
      file of a model of one rate.
  """

  fingerprint: bytes
  height: int
  width: int
  symbol_checksum: int
  payloads: tuple[bytes, ...]
  quality_code: int | None = None

  @property
  def version(self) -> int:
    """Version of the layout, which follows from what it has to say."""
    return SINGLE_RATE_VERSION if self.quality_code is None else VERSION

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the image, in pixels."""
    return self.height, self.width

  @property
  def z_size(self) -> tuple[int, int]:
    """Height and width of the picture, in elements of z."""
    return -(-self.height // STRIDE), -(-self.width // STRIDE)


def pack(container: Container) -> bytes:
  """Returns the bytes of a file.

  Raises:
    ValueError: if a field does not fit the layout.
  """
  if len(container.fingerprint) != FINGERPRINT_BYTES:
    raise ValueError(
      f"fingerprint has {len(container.fingerprint)} bytes; pass"
      f" {FINGERPRINT_BYTES}"
    )
  for name in ("height", "width"):
    value = getattr(container, name)
    if not 1 <= value <= MAX_SIDE:
      raise ValueError(f"{name} is {value}; it must lie in [1, {MAX_SIDE}]")
  code = container.quality_code
  if code is not None and not 1 <= code <= MAX_QUALITY_CODE:
    raise ValueError(
      f"quality_code is {code}; it must lie in [1, {MAX_QUALITY_CODE}]"
    )
  if not 0 <= container.symbol_checksum < 2**32:
    raise ValueError(
      f"symbol_checksum is {container.symbol_checksum}; pass 32 bits"
    )
  expected = tiles.count(*container.z_size)
  if len(container.payloads) != expected:
    raise ValueError(
      f"payloads are {len(container.payloads)}; a picture of"
      f" {container.height} x {container.width} pixels has {expected} tiles"
    )
  parts = [
    MAGIC,
    bytes((container.version,)),
    container.fingerprint,
    _encode_varint(container.height),
    _encode_varint(container.width),
    b"" if code is None else bytes((code,)),
    _CHECKSUM.pack(container.symbol_checksum),
  ]
  for payload in container.payloads[:-1]:
    parts += (_encode_varint(len(payload)), payload)
  body = b"".join((*parts, container.payloads[-1]))
  return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(
  data: bytes, *, max_pixels: int | None = DEFAULT_MAX_PIXELS
) -> Container:
  """Reads a file's bytes, distrusting every one of them.

  Args:
    data: the whole file.
    max_pixels: the largest height x width accepted; None accepts any. A
      picture so narrow that padding to multiples of 64 more than doubles this
      many is refused as well, for memory goes with the padded size.

  Raises:
    BitstreamError: one line, if this is no `.egic` file, or of a newer
      version, or truncated or damaged (trailing bytes included), or larger
      than `max_pixels`.
  """
  data = bytes(data)
  if not data:
    raise BitstreamError(f"{_DAMAGED}: it is empty")
  if not data.startswith(MAGIC[: len(data)]):
    raise BitstreamError("not an .egic file")
  if len(data) <= len(MAGIC):
    raise BitstreamError(f"{_DAMAGED}: only {len(data)} bytes")
  # Before the checksum: a later version may keep it elsewhere.
  version = data[len(MAGIC)]
  if version > VERSION:
    raise BitstreamError(
      f"the file has format version {version}, newer than version {VERSION}"
      " that this program reads; update egic_jax"
    )
  body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
  if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
    raise BitstreamError(f"{_DAMAGED}: its checksum does not match")
  # A checksum is no proof against a file made to deceive: check the rest too.
  if version not in (SINGLE_RATE_VERSION, VERSION):
    raise BitstreamError(
      f"{_DAMAGED}: format version {version} was never released"
    )
  position = len(MAGIC) + 1 + FINGERPRINT_BYTES
  fingerprint = body[len(MAGIC) + 1 : position]
  height, position = _decode_varint(body, position, "height", minimum=1)
  width, position = _decode_varint(body, position, "width", minimum=1)
  quality_bytes = int(version != SINGLE_RATE_VERSION)
  if len(body) < position + quality_bytes + _CHECKSUM.size:
    raise BitstreamError(f"{_DAMAGED}: the header is incomplete")
  quality_code = None
  if quality_bytes:
    quality_code = body[position]
    position += quality_bytes
    if not quality_code:
      raise BitstreamError(f"{_DAMAGED}: its quality code is 0")
  if max_pixels is not None and height * width > max_pixels:
    raise BitstreamError(
      f"the file declares {width} x {height} pixels, more than the limit of"
      f" {max_pixels} pixels (max_pixels)"
    )
  (symbol_checksum,) = _CHECKSUM.unpack_from(body, position)
  header = Container(
    fingerprint=fingerprint,
    height=height,
    width=width,
    symbol_checksum=symbol_checksum,
    payloads=(),
    quality_code=quality_code,
  )
  z_height, z_width = header.z_size
  padded = z_height * z_width * STRIDE**2
  if max_pixels is not None and padded > max(2 * max_pixels, _ALWAYS_PADDED):
    raise BitstreamError(
      f"the file declares {width} x {height} pixels, which take the memory of"
      f" {padded}, more than twice the limit of {max_pixels} (max_pixels)"
    )
  payloads = _payloads(
    body, position + _CHECKSUM.size, tiles.count(*header.z_size)
  )
  return dataclasses.replace(header, payloads=payloads)


def _payloads(body: bytes, position: int, count: int) -> tuple[bytes, ...]:
  """Cuts what follows the header into `count` payloads."""
  # Each but the last takes a byte at least: the file's size bounds the loop.
  if len(body) - position < count - 1:
    raise BitstreamError(
      f"{_DAMAGED}: it is too short for the {count} tiles of its size"
    )
  payloads = []
  for number in range(1, count):
    name = f"length of tile {number} of {count}"
    length, position = _decode_varint(body, position, name)
    if length > len(body) - position:
      raise BitstreamError(f"{_DAMAGED}: its {name} is {length}, past its end")
    payloads.append(body[position : position + length])
    position += length
  return (*payloads, body[position:])


def inspect(data: bytes) -> dict[str, Any]:
  """What a file says without its model.

  Returns:
    version, fingerprint (hexadecimal), height, width, tiles (their number),
    bytes, header_bytes (all that is not payload), payload_bytes, bpp (of the
    whole file, per pixel of the image); of version 3, quality_code as well.

  Raises:
    BitstreamError: as `unpack`.
  """
  header = unpack(data, max_pixels=None)
  payload_bytes = sum(map(len, header.payloads))
  quality = {}
  if header.quality_code is not None:
    quality["quality_code"] = header.quality_code
  return {
    "version": header.version,
    "fingerprint": header.fingerprint.hex(),
    "height": header.height,
    "width": header.width,
    "tiles": len(header.payloads),
    "bytes": len(data),
    "header_bytes": len(data) - payload_bytes,
    "payload_bytes": payload_bytes,
    "bpp": 8 * len(data) / (header.height * header.width),
    **quality,
  }


def _encode_varint(value: int) -> bytes:
  encoded = bytearray()
  while value > 0x7F:
    encoded.append(value & 0x7F | 0x80)
    value >>= 7
  encoded.append(value)
  return bytes(encoded)


def _decode_varint(
  data: bytes, position: int, name: str, minimum: int = 0
) -> tuple[int, int]:
  """Returns (value in [minimum, MAX_SIDE], position after it)."""
  value = 0
  for count in range(_VARINT_MAX_BYTES):
    if position + count >= len(data):
      raise BitstreamError(f"{_DAMAGED}: the file ends within its {name}")
    byte = data[position + count]
    value |= (byte & 0x7F) << (7 * count)
    if byte < 0x80:
      # One number, one spelling: a padded varint is not ours.
      if count and byte == 0:
        raise BitstreamError(f"{_DAMAGED}: its {name} is badly spelled")
      if not minimum <= value <= MAX_SIDE:
        raise BitstreamError(f"{_DAMAGED}: its {name} is {value}")
      return value, position + count + 1
  raise BitstreamError(
    f"{_DAMAGED}: its {name} takes more than {_VARINT_MAX_BYTES} bytes"
  )
