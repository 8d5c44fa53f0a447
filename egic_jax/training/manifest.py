"""The manifest of a checkpoint: a SHA-256 of every array in it.

Orbax does not notice a flipped bit in array data, so what it reads is compared
with what was there when it was written.
"""

import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

# Name of this part of a checkpoint.
ITEM = "manifest"

_KEYS = {"step", "dataset_identity", "processes", "iterator", "sha256"}


def make(
  arrays: dict[str, np.ndarray],
  *,
  step: int,
  dataset_identity: str,
  iterator: Any,
) -> dict[str, Any]:
  """The manifest of a checkpoint, to be stored as JSON.

  Args:
    arrays: as `named_arrays` gives them.
    step: updates made.
    dataset_identity: what the iterator walks through.
    iterator: a grain iterator; process 0's position stands for all, since they
      walk in step.
  """
  return {
    "step": step,
    "dataset_identity": dataset_identity,
    # For information: a checkpoint fits any number of them.
    "processes": jax.process_count(),
    "iterator": iterator_digest(iterator),
    "sha256": {name: digest(array) for name, array in arrays.items()},
  }


def read(directory: pathlib.Path, step: int) -> dict[str, Any]:
  """The manifest in a checkpoint's directory; an Exception if it is not one."""
  # The bare handler: nothing in it waits for other processes.
  handler = ocp.JsonCheckpointHandler()
  manifest = handler.restore(directory / ITEM, args=ocp.args.JsonRestore())
  handler.close()
  if not isinstance(manifest, dict) or not manifest.keys() >= _KEYS:
    raise ValueError("its manifest is not one")
  if manifest["step"] != step:
    raise ValueError(f"its manifest is that of step {manifest['step']}")
  return manifest


def check(
  arrays: dict[str, np.ndarray],
  manifest: dict[str, Any],
  prefixes: tuple[str, ...] = ("",),
) -> None:
  """ValueError unless these are the arrays of the manifest.

  Args:
    arrays: as `named_arrays` gives them.
    manifest: theirs.
    prefixes: of the names that there should be.
  """
  expected = {
    name: found
    for name, found in manifest["sha256"].items()
    if name.startswith(prefixes)
  }
  if missing := sorted(expected.keys() ^ arrays.keys()):
    raise ValueError(f"its arrays are not those of its manifest: {missing[0]}")
  for name, array in arrays.items():
    if digest(array) != expected[name]:
      raise ValueError(f"{name} differs from its SHA-256")


def named_arrays(tree: Any, *, fetch: bool = True) -> dict[str, Any]:
  """Leaves by their path, "params/codec/...".

  Args:
    tree: of arrays; of those split over several processes every process has to
      ask for the same.
    fetch: copy them to the host, whole.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      _to_host(leaf) if fetch else leaf
    )
    for path, leaf in leaves
  }


def digest(array: np.ndarray) -> str:
  """SHA-256 of type, shape and values, in hexadecimal."""
  found = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
  found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def iterator_digest(iterator: Any) -> str:
  """SHA-256 of a grain iterator's position."""
  state = iterator.get_state()
  text = state if isinstance(state, bytes) else json.dumps(state).encode()
  return hashlib.sha256(text).hexdigest()


def _to_host(array: Any) -> np.ndarray:
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    if array.is_fully_replicated:
      return np.asarray(array.addressable_data(0))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)
