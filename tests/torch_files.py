"""Writes torch's `.pth` files by hand: torch is no dependency of the tests.

The opcodes are those of pickle protocol 2, which torch uses.
"""

import io
import pathlib
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

_STORAGES = {
  "float32": "FloatStorage",
  "float64": "DoubleStorage",
  "float16": "HalfStorage",
  "bfloat16": "BFloat16Storage",
  "int64": "LongStorage",
  "uint8": "ByteStorage",
  "bool": "BoolStorage",
}


def text(value: str) -> bytes:
  encoded = value.encode()
  return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
  return b"J" + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
  return f"c{module}\n{attribute}\n".encode()


def pickled(body: bytes) -> bytes:
  return b"\x80\x02" + body + b"."


def sequence(*items: bytes) -> bytes:
  return b"(" + b"".join(items) + b"t"


def tensor(
  key: str,
  kind: str,
  size: int,
  shape: tuple[int, ...],
  strides: tuple[int, ...],
  offset: int = 0,
  *,
  legacy: bool = False,
) -> bytes:
  """A call of _rebuild_tensor_v2 with a persistent id for the storage."""
  identity = [
    text("storage"),
    name("torch", kind),
    text(key),
    text("cpu"),
    integer(size),
  ]
  storage = sequence(*identity, *([b"N"] if legacy else [])) + b"Q"
  return (
    name("torch._utils", "_rebuild_tensor_v2")
    + sequence(
      storage,
      integer(offset),
      sequence(*map(integer, shape)),
      sequence(*map(integer, strides)),
      b"\x89",  # False: no gradient.
      name("collections", "OrderedDict") + b")R",
    )
    + b"R"
  )


def mapping(entries: Mapping[str, bytes]) -> bytes:
  """An OrderedDict with a _metadata attribute, like any state_dict."""
  items = b"".join(text(key) + value for key, value in entries.items())
  return (
    name("collections", "OrderedDict")
    + b")R("
    + items
    + b"u"
    + b"}("
    + text("_metadata")
    + name("collections", "OrderedDict")
    + b")Rub"
  )


def _tensors(arrays: Mapping[str, np.ndarray], legacy: bool) -> bytes:
  entries = {}
  for i, (key, array) in enumerate(arrays.items()):
    strides = np.cumprod((1, *array.shape[:0:-1]))[::-1][: array.ndim]
    entries[key] = tensor(
      str(i),
      _STORAGES[array.dtype.name],
      array.size,
      array.shape,
      tuple(int(s) for s in strides),
      legacy=legacy,
    )
  return pickled(mapping(entries))


def write_parts(path: pathlib.Path, parts: Mapping[str, bytes]) -> None:
  """A zip archive of these parts, in the layout of torch 1.6 and later."""
  with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
    for part, data in parts.items():
      archive.writestr(f"archive/{part}", data)


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """{name: array} in the layout of torch 1.6 and later."""
  parts = {"data.pkl": _tensors(arrays, legacy=False), "byteorder": b"little"}
  for i, array in enumerate(arrays.values()):
    parts[f"data/{i}"] = array.tobytes()
  write_parts(path, parts | {"version": b"3\n"})


def write_legacy(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """{name: array} in the layout before torch 1.6."""
  file = io.BytesIO()
  magic = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
  file.write(pickled(b"\x8a\x0a" + magic))
  file.write(pickled(b"M" + struct.pack("<H", 1001)))
  file.write(pickled(b"}(" + text("little_endian") + b"\x88u"))
  file.write(_tensors(arrays, legacy=True))
  keys = b"".join(text(str(i)) for i in range(len(arrays)))
  file.write(pickled(b"](" + keys + b"e"))
  for array in arrays.values():
    file.write(struct.pack("<q", array.size) + array.tobytes())
  path.write_bytes(file.getvalue())
