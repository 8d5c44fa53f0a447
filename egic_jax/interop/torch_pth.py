"""Reads torch's `.pth` files of named arrays, without torch and without trust.

A `.pth` is a pickle, and a pickle may call anything. Here nothing can be called
but what a mapping of tensors is made of: a handful of names, each with a
stand-in of ours; any other name in the file is an error before it is looked up,
and states that a pickle would set on objects are thrown away.

Both of torch's layouts are read: the zip archive (torch 1.6 and later) and the
older one, in which torchvision's VGG16 is still handed out: five pickles in a
row, then the arrays.
"""

import collections
import dataclasses
import hashlib
import io
import math
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_DTYPES = {
  "DoubleStorage": np.dtype("float64"),
  "FloatStorage": np.dtype("float32"),
  "HalfStorage": np.dtype("float16"),
  "BFloat16Storage": np.dtype(jnp.bfloat16),
  "LongStorage": np.dtype("int64"),
  "IntStorage": np.dtype("int32"),
  "ShortStorage": np.dtype("int16"),
  "CharStorage": np.dtype("int8"),
  "ByteStorage": np.dtype("uint8"),
  "BoolStorage": np.dtype("bool"),
}


class TorchFileError(ValueError):
  """The file is not one of named arrays as torch writes it, or not the one."""


@dataclasses.dataclass(frozen=True)
class TorchFile:
  """What a `.pth` file holds.

  Attributes:
    arrays: {name: numpy array}, read-only.
    sha256: of the file, 64 hexadecimal digits.
  """

  arrays: dict[str, np.ndarray]
  sha256: str


@dataclasses.dataclass(frozen=True)
class _StorageType:
  dtype: np.dtype


@dataclasses.dataclass
class _Storage:
  """A flat array; in the old layout its values come last in the file."""

  dtype: np.dtype
  size: int
  values: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class _Tensor:
  """A view of a storage, in elements."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]

  def array(self) -> np.ndarray:
    """The view, read-only; TorchFileError if it leaves its storage."""
    values = self.storage.values
    if values is None:
      raise TorchFileError("a tensor has no values")
    if math.prod(self.shape) == 0:
      return np.zeros(self.shape, self.storage.dtype)
    last = self.offset + sum(
      (n - 1) * stride
      for n, stride in zip(self.shape, self.strides, strict=True)
    )
    # No more elements than are stored: a stride of zero would make few bytes
    # into very many.
    if last >= values.size or math.prod(self.shape) > values.size:
      raise TorchFileError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(
      values[self.offset :],
      self.shape,
      [stride * values.itemsize for stride in self.strides],
      writeable=False,
    )


def _is_size(value: Any) -> bool:
  return type(value) is int and value >= 0


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
  """Stands in for torch._utils._rebuild_tensor and _rebuild_tensor_v2."""
  sizes = (offset, *shape, *strides)
  if (
    type(storage) is not _Storage
    or len(shape) != len(strides)
    or not all(map(_is_size, sizes))
  ):
    raise TorchFileError("a tensor is malformed")
  return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data, *_) -> _Tensor:
  """Stands in for torch._utils._rebuild_parameter."""
  return data


_KNOWN: Mapping[tuple[str, str], Any] = {
  ("collections", "OrderedDict"): collections.OrderedDict,
  ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
  ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
  ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
  **{("torch", name): _StorageType(dtype) for name, dtype in _DTYPES.items()},
}


# The pickle module's own Python implementation: the C one takes memory for
# whatever number a few bytes of a damaged file happen to spell.
class _Unpickler(pickle._Unpickler):
  """Unpickles mappings of tensors; anything else is an error."""

  # Not those that make objects by other ways than calling a known name, and
  # not those that reserve memory before there is anything to fill it with.
  dispatch = {
    code[0]: pickle._Unpickler.dispatch[code[0]]
    for code in (
      *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP),
      *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
      *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
      *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.SHORT_BINBYTES),
      *(pickle.BINSTRING, pickle.SHORT_BINSTRING),
      *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2),
      *(pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
      *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
      *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
      *(pickle.BINGET, pickle.LONG_BINGET),
      *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BINPERSID),
    )
  }

  def __init__(
    self,
    file: io.BytesIO,
    storage: Callable[[str, np.dtype, int], _Storage] | None = None,
  ):
    super().__init__(file, encoding="utf-8")
    self._storage = storage

  def find_class(self, module: str, name: str) -> Any:
    known = _KNOWN.get((module, name))
    if known is None:
      raise TorchFileError(
        f"refers to {module}.{name}, which a file of named arrays has no need"
        " of"
      )
    return known

  def persistent_load(self, pid: Any) -> _Storage:
    if self._storage is None:
      raise TorchFileError("an array stands where none belongs")
    if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage":
      raise TorchFileError("a storage is malformed")
    kind, key, size = pid[1], pid[2], pid[4]
    if (
      type(kind) is not _StorageType
      or type(key) is not str
      or not _is_size(size)
    ):
      raise TorchFileError("a storage is malformed")
    if len(pid) > 5 and pid[5] is not None:
      raise TorchFileError("a storage is a view of another; save it anew")
    return self._storage(key, kind.dtype, size)

  def load_build(self) -> None:
    """Drops the state meant for an object, such as a mapping's _metadata."""
    self.stack.pop()

  dispatch[pickle.BUILD[0]] = load_build


def read(path: str | os.PathLike, sha256: str | None = None) -> TorchFile:
  """Reads a file of named arrays, such as a network's weights.

  Args:
    path: a `.pth` or `.pt` in either of torch's layouts, holding a mapping of
      names to tensors. Nothing in it is executed.
    sha256: what the file's SHA-256 must be, or begin with: at least 8
      hexadecimal digits. None for whatever it is; it is reported anyway.

  Returns:
    TorchFile.

  Raises:
    FileNotFoundError: there is no such file.
    TorchFileError: another file than `sha256` says, damaged, or not such a
      mapping; one line that names the file.
  """
  with open(path, "rb") as file:
    data = file.read()
  digest = hashlib.sha256(data).hexdigest()
  if sha256 is not None:
    _check_digest(os.fspath(path), digest, sha256.lower())
  try:
    if data.startswith(_ZIP_MAGIC):
      arrays = _read_zip(data)
    else:
      arrays = _read_legacy(data)
  except TorchFileError as error:
    raise TorchFileError(f"{os.fspath(path)}: {error}") from None
  except Exception as error:  # A damaged pickle can raise any kind.
    text = " ".join(str(error).split()) or type(error).__name__
    raise TorchFileError(
      f"{os.fspath(path)} is damaged or no torch file: {text[:200]}"
    ) from None
  return TorchFile(arrays, digest)


def _check_digest(path: str, digest: str, expected: str) -> None:
  if len(expected) < 8 or set(expected) - set("0123456789abcdef"):
    raise ValueError(
      f"sha256 {expected!r} must be at least 8 hexadecimal digits"
    )
  if not digest.startswith(expected):
    raise TorchFileError(
      f"{path} is another file: its SHA-256 is {digest}, not {expected}..;"
      " download it again"
    )


def _named_arrays(tree: Any) -> dict[str, np.ndarray]:
  if not isinstance(tree, dict):
    raise TorchFileError("holds no mapping of names to tensors")
  for name, value in tree.items():
    if type(name) is not str or type(value) is not _Tensor:
      raise TorchFileError(
        f"entry {str(name)[:80]!r} is no tensor; save a state_dict alone"
      )
  return {name: tensor.array() for name, tensor in tree.items()}


def _values(
  data: bytes | memoryview, dtype: np.dtype, order: str
) -> np.ndarray:
  """Stored numbers in this machine's byte order."""
  values = np.frombuffer(data, dtype)
  return values if order == sys.byteorder else values.byteswap()


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    entries = {info.filename: info for info in archive.infolist()}
    roots = [
      name.removesuffix("data.pkl")
      for name in entries
      if name.count("/") == 1 and name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
      raise TorchFileError("is a zip archive, but not one written by torch")

    def entry(name: str) -> bytes:
      info = entries.get(roots[0] + name)
      if info is None:
        raise TorchFileError(f"has no part {name}")
      # torch stores without compression; a small file unpacks to a small one.
      if info.compress_type != zipfile.ZIP_STORED:
        raise TorchFileError(f"part {name} is compressed, as torch never does")
      return archive.read(info)

    order = "little"
    if f"{roots[0]}byteorder" in entries:
      order = entry("byteorder").decode("ascii", "replace").strip()
    if order not in ("little", "big"):
      raise TorchFileError("has an unknown byte order")
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, size: int) -> _Storage:
      if key not in storages:
        stored = entry(f"data/{key}")
        if len(stored) != size * dtype.itemsize:
          raise TorchFileError(f"part data/{key} has not the stated size")
        storages[key] = _Storage(dtype, size, _values(stored, dtype, order))
      if storages[key].dtype != dtype:
        raise TorchFileError(f"part data/{key} has two types")
      return storages[key]

    tree = _Unpickler(io.BytesIO(entry("data.pkl")), storage).load()
  return _named_arrays(tree)


def _read_legacy(data: bytes) -> dict[str, np.ndarray]:
  file = io.BytesIO(data)
  try:
    magic = _Unpickler(file).load()
  except Exception:  # Whatever it is, it does not begin as such a file does.
    magic = None
  if magic != _LEGACY_MAGIC:
    raise TorchFileError("is no torch file")
  if _Unpickler(file).load() != _LEGACY_PROTOCOL:
    raise TorchFileError("is of an unknown version")
  system = _Unpickler(file).load()
  order = "little" if system.get("little_endian", True) else "big"
  storages: dict[str, _Storage] = {}

  def storage(key: str, dtype: np.dtype, size: int) -> _Storage:
    known = storages.setdefault(key, _Storage(dtype, size))
    if (known.dtype, known.size) != (dtype, size):
      raise TorchFileError(f"storage {key} has two types or sizes")
    return known

  tree = _Unpickler(file, storage).load()
  for key in _Unpickler(file).load():
    if key not in storages or storages[key].values is not None:
      raise TorchFileError("lists an unknown storage")
    own = storages[key]
    stated = int.from_bytes(file.read(8), order, signed=True)
    # Without a copy: such a file may be half a gigabyte.
    stored = memoryview(data)[file.tell() :][: own.size * own.dtype.itemsize]
    file.seek(len(stored), io.SEEK_CUR)
    if stated != own.size or len(stored) != own.size * own.dtype.itemsize:
      raise TorchFileError("ends too early")
    own.values = _values(stored, own.dtype, order)
  return _named_arrays(tree)
