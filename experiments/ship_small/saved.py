"""A training in a few files of limited size, written whole or not at all.

All arrays are one stream of bytes: parameters first, then optimiser's moments
and averages. It is cut into files of at most 15.5 MiB; state.json says what lies
where, and has their SHA-256. Moments may be kept in fewer bits. Whoever has no
room leaves the last files out: with all parameters there, moments start anew.
"""

import hashlib
import json
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

STATE = "state.json"
_VERSION = 1
_PREFIX = "save_"
_PARTIAL = ".partial"

_MIB = 1 << 20
# What a machine gives back after a command, with some room to spare.
PIECE_BYTES = int(15.5 * _MIB)
MAX_FILES = 8
MAX_FILE_BYTES = 16 * _MIB
MAX_TOTAL_BYTES = 64 * _MIB

_KINDS = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
  "int32": np.dtype(np.int32),
  "uint32": np.dtype(np.uint32),
}
_MOMENTS = "opt_state/"
# Smaller arrays are kept as they are: counts, learning rates, gains.
_ROUNDED_FROM = 1024


def name_leaves(tree: Any) -> dict[str, Any]:
  """{"a/b/0": leaf} of any tree, in a fixed order."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in flat
  }


def save(
  run: pathlib.Path,
  *,
  params: Any,
  others: Any,
  position: Mapping[str, Any],
  moments: str = "float32",
  attachments: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
  """Writes run/save_N and removes the saves before.

  A kill at any moment leaves one or the other: the folder gets its name when it
  is complete.

  Args:
    run: where saves go; made if missing.
    params: parameters, kept bit by bit.
    others: what else training needs: moments, averages.
    position: JSON; "saves" numbers it, and never comes twice in a run.
    moments: type in which large float32 arrays of others["opt_state"] are
      kept.
    attachments: further files by name.

  Returns:
    The folder.

  Raises:
    ValueError: files would be more, or larger, than may travel.
    OSError: they cannot be written.
  """
  table, chunks = [], []
  for part, tree in (("params", params), ("others", others)):
    for name, leaf in name_leaves(tree).items():
      array = np.asarray(leaf)
      kind = array.dtype.name
      rounded = name.startswith(_MOMENTS) and array.size >= _ROUNDED_FROM
      stored = moments if rounded and kind == "float32" else kind
      chunks.append(array.astype(_KINDS[stored], copy=False).tobytes())
      table.append([part, name, kind, stored, array.shape])
  stream = b"".join(chunks)
  pieces = [
    stream[i : i + PIECE_BYTES] for i in range(0, len(stream), PIECE_BYTES)
  ]
  head = {
    "version": _VERSION,
    "position": dict(position),
    "arrays": table,
    "pieces": [
      [len(piece), hashlib.sha256(piece).hexdigest()] for piece in pieces
    ],
  }
  files = {_piece_name(i): piece for i, piece in enumerate(pieces)}
  files |= {STATE: json.dumps(head).encode()} | dict(attachments or {})
  check_sizes({name: len(data) for name, data in files.items()})
  return _replace(run, f"{_PREFIX}{position['saves']:06d}", files)


def check_sizes(sizes: Mapping[str, int]) -> None:
  """ValueError, in one line, for files that would not all come back."""
  for name, size in sizes.items():
    if size > MAX_FILE_BYTES:
      raise ValueError(
        f"{name} would have {size / _MIB:.1f} MiB; a file may have"
        f" {MAX_FILE_BYTES // _MIB}"
      )
  total = sum(sizes.values())
  if len(sizes) > MAX_FILES or total > MAX_TOTAL_BYTES:
    raise ValueError(
      f"a save would be {len(sizes)} files of {total / _MIB:.1f} MiB; it may be"
      f" {MAX_FILES} files of {MAX_TOTAL_BYTES // _MIB} MiB: keep moments as"
      " bfloat16, or no average"
    )


def _replace(run, name, files):
  run.mkdir(parents=True, exist_ok=True)
  before = [path for path in run.iterdir() if path.name.startswith(_PREFIX)]
  # A name of its own: of a save that was killed, only parts may be there.
  partial = run / f"{name}.{secrets.token_hex(4)}{_PARTIAL}"
  partial.mkdir()
  for file_name, data in files.items():
    with open(partial / file_name, "xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
  target = run / name
  os.rename(partial, target)
  for path in before:
    shutil.rmtree(path, ignore_errors=True)
  return target


def newest(run: pathlib.Path) -> pathlib.Path | None:
  """The newest complete save of a run, or *run* itself if it is a save."""
  if (run / STATE).is_file():
    return run
  if not run.is_dir():
    return None
  found = [
    path
    for path in run.iterdir()
    if path.name.startswith(_PREFIX)
    and not path.name.endswith(_PARTIAL)
    and (path / STATE).is_file()
  ]
  return max(found, key=lambda path: path.name, default=None)


def load(
  directory: pathlib.Path,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray] | None, dict[str, Any]]:
  """Reads a save.

  Args:
    directory: what `save` returned, or a copy of it.

  Returns:
    Parameters by name; the other arrays, or None if files of them were left
    out; the position.

  Raises:
    ValueError: it is no save, damaged, or lacks parameters.
  """
  try:
    head = json.loads((directory / STATE).read_text())
    if head["version"] != _VERSION:
      raise ValueError(f"version {head['version']}, not {_VERSION}")
    pieces = head["pieces"]
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(f"{directory / STATE}: not a save ({error})") from None
  stream, complete = bytearray(), True
  for number, (size, digest) in enumerate(pieces):
    path = directory / _piece_name(number)
    if not path.is_file():
      complete = False
      break
    data = path.read_bytes()
    if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
      raise ValueError(f"{path}: damaged; take another save")
    stream += data
  parts, offset = {"params": {}, "others": {}}, 0
  for part, name, kind, stored, shape in head["arrays"]:
    count = int(np.prod(shape, dtype=np.int64))
    end = offset + count * _KINDS[stored].itemsize
    if end > len(stream):
      if part == "params":
        raise ValueError(
          f"{directory / _piece_name(number)}: missing, and it holds parameters"
        )
      break
    array = np.frombuffer(stream, _KINDS[stored], count, offset)
    parts[part][name] = array.reshape(shape).astype(_KINDS[kind])
    offset = end
  others = parts["others"] if complete else None
  return parts["params"], others, head["position"]


def fill(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
  """A tree of the shapes of *tree* with arrays by name.

  Raises:
    ValueError: names or shapes differ.
  """
  named = name_leaves(tree)
  if named.keys() != arrays.keys():
    odd = sorted(named.keys() ^ arrays.keys())
    raise ValueError(
      f"the save is of other networks or settings: {len(odd)} arrays differ,"
      f" such as {odd[0]}"
    )
  for name, leaf in named.items():
    if leaf.shape != arrays[name].shape:
      raise ValueError(
        f"the save is of other networks: {name} is {arrays[name].shape}, here"
        f" {leaf.shape}"
      )
  return jax.tree.unflatten(
    jax.tree.structure(tree), [arrays[name] for name in named]
  )


def _piece_name(number):
  return f"state_{number}.bin"
