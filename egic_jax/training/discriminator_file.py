"""The discriminator in one file: what a training can start from.

A safetensors file. Tensors are float32 parameters by their path ("down_0/conv1/
kernel", ...). Metadata: "format" and "version" of this layout, "config"
(DiscriminatorConfig as JSON), "sha256" of all values as stored, since
safetensors has no checksum, and "source", where they come from.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from egic_jax import atomic_files
from egic_jax.models.discriminators import oasis_c, presets

FORMAT = "egic-discriminator"
VERSION = "1"


class DiscriminatorFileError(ValueError):
  """A file that holds no usable discriminator; the message is one line."""


def save(
  path: str | os.PathLike,
  config: presets.DiscriminatorConfig,
  params: dict[str, Any],
  source: str,
) -> None:
  """Writes a file, whole or not at all.

  Args:
    path: the file; replaced if there is one.
    config: the size.
    params: the parameter tree of this size, float32.
    source: where it comes from, a line of text.

  Raises:
    OSError: it cannot be written.
  """
  tensors = {
    name: np.ascontiguousarray(array, np.float32)
    for name, array in traverse_util.flatten_dict(params, sep="/").items()
  }
  metadata = {
    "format": FORMAT,
    "version": VERSION,
    "config": json.dumps(presets.config_to_dict(config), sort_keys=True),
    # The order of the values does not depend on the metadata.
    "sha256": _digest(safetensors.numpy.save(tensors)),
    "source": source,
  }
  atomic_files.write_bytes(
    path, safetensors.numpy.save(tensors, metadata=metadata)
  )


def load(
  path: str | os.PathLike,
) -> tuple[presets.DiscriminatorConfig, dict[str, Any], str]:
  """Reads a file and checks all of it.

  Returns:
    Its size, its parameters as numpy arrays, and where they come from.

  Raises:
    DiscriminatorFileError: it is missing, foreign, newer or damaged.
  """
  path = os.fspath(path)
  try:
    with open(path, "rb") as file:
      data = file.read()
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = file.metadata() or {}
    tensors = safetensors.numpy.load(data)
  except OSError as error:
    raise DiscriminatorFileError(
      f"cannot read {path}: {(error.strerror or str(error)).lower()}"
    ) from None
  except Exception as error:  # safetensors' own kinds have no common class.
    raise DiscriminatorFileError(
      f"{path} is no safetensors file: {error}"
    ) from None
  if metadata.get("format") != FORMAT:
    raise DiscriminatorFileError(
      f"{path} holds no discriminator; make one with egic import-official"
      " --discriminator, or give the work directory of stage 0"
    )
  if metadata.get("version") != VERSION:
    raise DiscriminatorFileError(
      f"{path} has format version {metadata.get('version')!r}; this program"
      f" reads version {VERSION}: update egic_jax"
    )
  try:
    config = presets.config_from_dict(json.loads(metadata["config"]))
    digest = metadata["sha256"]
  except (KeyError, TypeError, ValueError) as error:
    raise DiscriminatorFileError(
      f"{path} is damaged: its description ({error})"
    ) from None
  if digest != _digest(data):
    raise DiscriminatorFileError(
      f"{path} is damaged: its values do not match their SHA-256"
    )
  expected = traverse_util.flatten_dict(oasis_c.param_shapes(config), sep="/")
  if {k: (v.shape, str(v.dtype)) for k, v in tensors.items()} != {
    k: (v.shape, str(v.dtype)) for k, v in expected.items()
  }:
    raise DiscriminatorFileError(
      f"{path} is damaged: its parameters do not fit its description"
    )
  params = traverse_util.unflatten_dict(tensors, sep="/")
  return config, params, metadata.get("source", "")


def _digest(data: bytes) -> str:
  """SHA-256 of the values, which follow the header."""
  start = 8 + int.from_bytes(data[:8], "little")
  return hashlib.sha256(memoryview(data)[start:]).hexdigest()
