"""Mutants of .egic files."""

import struct
import zlib

import numpy as np

from egic_jax.bitstream import container

# Files of several tiles are mutated less often: they take longer.
TILED_WEIGHT = 0.1

SIDES = (0, 1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 300, 511, 512, 1023)
SIDES += (1024, 1025, 2048, 4096, 16383, 16384, 16385, 65535, 2**20, 2**26)
SIDES += (2**28 - 1, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**35 - 1)


def varint(value: int, extra: int = 0) -> bytes:
  """LEB128, with `extra` bytes more than it needs."""
  parts = []
  while value > 0x7F or extra > 0:
    extra -= value <= 0x7F
    parts.append(value & 0x7F | 0x80)
    value >>= 7
  return bytes([*parts, value])


def layout(fields: container.Container, **changed) -> bytes:
  """The file but for its checksum; fields may be anything."""
  value = {"version": fields.version, **vars(fields), **changed}
  extra = value.get("extra", 0)
  body = container.MAGIC + bytes([value["version"]]) + value["fingerprint"]
  body += varint(value["height"], extra) + varint(value["width"])
  if value["quality_code"] is not None:
    body += bytes((value["quality_code"],))
  body += struct.pack("<I", value["symbol_checksum"])
  payloads = value["payloads"]
  lengths = value.get("lengths", [len(payload) for payload in payloads])
  for length, payload in zip(lengths[:-1], payloads[:-1], strict=True):
    body += varint(length) + payload
  return body + payloads[-1]


class Mutator:
  """Makes mutant k of a seed."""

  def __init__(self, files: dict[str, bytes], seed: int):
    self._names = list(files)
    self._files = files
    self._fields = {name: container.unpack(files[name]) for name in files}
    weights = [
      TILED_WEIGHT if len(self._fields[name].payloads) > 1 else 1.0
      for name in self._names
    ]
    self._weights = np.array(weights) / np.sum(weights)
    self._seed = seed
    self._kinds = (
      self._bits,
      self._bytes,
      self._truncate,
      self._insert,
      self._splice,
      self._header,
      self._sizes,
      self._lengths,
      self._payloads,
      self._declare,
    )

  def __call__(self, k: int) -> tuple[str, str, bytes]:
    """Returns kind, name of the file it was made from, and the mutant."""
    rng = np.random.default_rng([self._seed, k])
    name = body = None
    # What changes nothing is no mutant.
    while name is None or body == self._files[name][:-4]:
      name = self._draw(rng)
      mutate = self._kinds[int(rng.integers(len(self._kinds)))]
      body = mutate(rng, name)
    if rng.random() < 0.5:
      data = body + struct.pack("<I", zlib.crc32(body))
      kind = f"{mutate.__name__[1:]} with a right checksum"
    else:
      data = body + self._files[name][-4:]
      kind = f"{mutate.__name__[1:]}"
    return kind, name, data

  def _draw(self, rng) -> str:
    return self._names[int(rng.choice(len(self._names), p=self._weights))]

  def _body(self, name: str) -> bytearray:
    return bytearray(self._files[name][:-4])

  def _bits(self, rng, name):
    body = self._body(name)
    for bit in rng.integers(0, 8 * len(body), rng.integers(1, 9)):
      body[bit // 8] ^= 1 << bit % 8
    return bytes(body)

  def _bytes(self, rng, name):
    body = self._body(name)
    for place in rng.integers(0, len(body), rng.integers(1, 5)):
      body[place] = rng.choice([0, 255, 128, 127, rng.integers(256)])
    return bytes(body)

  def _truncate(self, rng, name):
    body = self._body(name)
    return bytes(body[: rng.integers(0, len(body))])

  def _insert(self, rng, name):
    body = self._body(name)
    place = rng.choice([rng.integers(0, len(body) + 1), len(body)])
    length = int(rng.integers(1, 65))
    new = (bytes(length), b"\xff" * length, rng.bytes(length))[rng.integers(3)]
    return bytes(body[:place] + new + body[place:])

  def _splice(self, rng, name):
    first, second = self._body(name), self._body(self._draw(rng))
    start = rng.integers(0, len(first) + 1)
    return bytes(first[:start] + second[rng.integers(0, len(second) + 1) :])

  def _header(self, rng, name):
    """One of the first thirty bytes."""
    body = self._body(name)
    body[rng.integers(0, min(30, len(body)))] = rng.integers(256)
    return bytes(body)

  def _sizes(self, rng, name):
    changed = {
      side: int(rng.choice(SIDES))
      for side in ("height", "width")
      if rng.random() < 0.7
    }
    if rng.random() < 0.1:
      changed["extra"] = int(rng.integers(1, 6))
    if rng.random() < 0.1:
      changed["version"] = int(rng.integers(256))
    if rng.random() < 0.1 and self._fields[name].quality_code is not None:
      changed["quality_code"] = int(rng.integers(256))
    return layout(self._fields[name], **changed)

  def _lengths(self, rng, name):
    payloads = self._fields[name].payloads
    lengths = [
      int(rng.choice([len(p), 0, len(p) + 1, *SIDES])) for p in payloads
    ]
    return layout(self._fields[name], lengths=lengths)

  def _payloads(self, rng, name):
    """A right header with other payloads of the right number."""
    payloads = [self._payload(rng) for _ in self._fields[name].payloads]
    return layout(self._fields[name], payloads=payloads)

  def _declare(self, rng, name):
    """Another size, and as many payloads as it has tiles, up to 300."""
    sides = [side for side in SIDES if 1 <= side <= 2**20]
    height, width = (int(side) for side in rng.choice(sides, 2))
    tiles = -(-height // 1024) * -(-width // 1024)
    payloads = [self._payload(rng) for _ in range(min(tiles, 300))]
    return layout(
      self._fields[name], height=height, width=width, payloads=payloads
    )

  def _payload(self, rng) -> bytes:
    kind = rng.integers(5)
    if kind == 0:
      return b""
    if kind == 1:
      return bytes(int(rng.integers(1, 200)))
    if kind == 2:
      return rng.bytes(int(rng.integers(1, 200)))
    if kind == 3:
      return b"\xff" * int(rng.integers(1, 200))
    payloads = self._fields[self._draw(rng)].payloads
    return payloads[int(rng.integers(len(payloads)))]
