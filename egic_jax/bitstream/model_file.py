"""A model in one file: parameters, configuration and integer tables.

The file is a safetensors file. Tensors are parameters named by their path
("codec/analysis/...", "orp/..."), all float32 or all float16, and int32 tables
("tables/gaussian/...", "tables/prior/..."). Nothing is computed in float16: it
halves the file of a model whose parameters were rounded to it before tables and
fingerprint were made. Metadata: "format" and "version" of this layout, "config"
(CodecConfig as JSON), "fingerprint" (16 hexadecimal digits), "digest" (SHA-256
of all tensors, since safetensors has no checksum) and whatever else describes
the model. Nothing that training needs is imported to read one.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from egic_jax import atomic_files, program_store
from egic_jax.bitstream import container
from egic_jax.bitstream import tables as tables_lib
from egic_jax.entropy import gaussian
from egic_jax.models import presets

FORMAT = "egic-model"
VERSION = 1

_RESERVED = ("format", "version", "config", "fingerprint", "digest")
_PARTS = ("codec", "orp")
_LISTED_NAMES = 5


class ModelFileError(ValueError):
  """A model file that cannot be used; the message is one line."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
  """A codec ready to code.

  Attributes:
    config: its size.
    params: {"codec": ..., optionally "orp": ...}, nested, float32 NumPy arrays.
    tables: "gaussian", one table a scale, and "prior", one a channel of z.
    fingerprint: 8 bytes that name configuration, codec parameters and tables.
    metadata: further description, text by name.
    half: all parameters are float16 values, and stored as such.
  """

  config: presets.CodecConfig
  params: dict[str, Any]
  tables: dict[str, tables_lib.SymbolTables]
  fingerprint: bytes
  metadata: dict[str, str] = dataclasses.field(default_factory=dict)
  half: bool = False


def build_model(
  config: presets.CodecConfig,
  params: Mapping[str, Any],
  metadata: Mapping[str, str] | None = None,
  *,
  half: bool = False,
) -> Model:
  """A model from parameters: derives tables and fingerprint.

  Args:
    config: the size.
    params: {"codec": ..., optionally "orp": ...}; other parts (a
      discriminator) are left out.
    metadata: further description, text by name.
    half: whether to round parameters to float16, for a file half as large. It
      is another model then, with a fingerprint of its own.

  Raises:
    ModelFileError: if a parameter is missing, too many, misshapen, of another
      dtype, not finite, or too large for float16.
    ValueError: if `metadata` uses a name of the format's own.
  """
  metadata = dict(metadata or {})
  if taken := sorted(set(metadata) & set(_RESERVED)):
    raise ValueError(f"metadata may not be called {', '.join(taken)}")
  parts = {name: params[name] for name in _PARTS if name in params}
  flat = _flatten(parts)
  _check_params(config, flat)
  if half:
    flat = {name: _rounded(name, value) for name, value in flat.items()}
  params = _unflatten(flat)
  tables = {
    "gaussian": tables_lib.gaussian_tables(),
    "prior": tables_lib.prior_tables(params["codec"]["prior"]),
  }
  return Model(
    config=config,
    params=params,
    tables=tables,
    fingerprint=_fingerprint(config, flat | _flatten_tables(tables)),
    metadata=metadata,
    half=half,
  )


def save_model(path: str | os.PathLike, model: Model) -> None:
  """Writes a model file, whole or not at all; else OSError, in one line."""
  flat = _flatten(model.params)
  if model.half:
    flat = {name: value.astype(np.float16) for name, value in flat.items()}
  tensors = flat | _flatten_tables(model.tables)
  metadata = {
    **model.metadata,
    "format": FORMAT,
    "version": str(VERSION),
    "config": _canonical_json(model.config),
    "fingerprint": model.fingerprint.hex(),
    "digest": _digest(tensors).hexdigest(),
  }
  data = safetensors.numpy.save(tensors, metadata=metadata)
  atomic_files.write_bytes(path, _in_order(data))


def load_model(path: str | os.PathLike) -> Model:
  """Reads a model file and checks all of it.

  Raises:
    ModelFileError: one line, if the file is missing, foreign, newer, damaged,
      or holds other tensors than its configuration implies.
  """
  try:
    return _load(os.fspath(path))
  except ModelFileError as error:
    raise ModelFileError(
      f"model file {os.fspath(path)}: {' '.join(str(error).split())}"
    ) from error


def _load(path: str) -> Model:
  metadata, tensors = _read(path)
  if metadata.get("format") != FORMAT:
    raise ModelFileError("not a model of egic_jax")
  version = metadata.get("version", "")
  if version != str(VERSION):
    raise ModelFileError(
      f"has format version {version!r}; this program reads version {VERSION}:"
      " update egic_jax or export the model again"
    )
  try:
    config = presets.config_from_dict(json.loads(metadata["config"]))
    fingerprint = bytes.fromhex(metadata["fingerprint"])
    digest = metadata["digest"]
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ModelFileError(f"its description is damaged: {error}") from error
  flat = {k: v for k, v in tensors.items() if not k.startswith("tables/")}
  half = bool(flat) and all(v.dtype == np.float16 for v in flat.values())
  if half:
    flat = {name: value.astype(np.float32) for name, value in flat.items()}
  _check_params(config, flat)
  tables = _check_tables(config, tensors)
  if digest != _digest(tensors).hexdigest():
    raise ModelFileError("is damaged: its tensors do not match their digest")
  if fingerprint != _fingerprint(config, tensors | flat):
    raise ModelFileError(
      "is damaged: configuration, parameters and tables do not match its"
      f" fingerprint {fingerprint.hex()}"
    )
  return Model(
    config=config,
    params=_unflatten(flat),
    tables=tables,
    fingerprint=fingerprint,
    metadata={k: v for k, v in metadata.items() if k not in _RESERVED},
    half=half,
  )


def _read(path: str) -> tuple[dict[str, str], dict[str, np.ndarray]]:
  # safetensors' own messages would repeat the path.
  if not os.path.isfile(path):
    missing = not os.path.exists(path)
    raise ModelFileError("does not exist" if missing else "is not a file")
  try:
    with safetensors.safe_open(path, framework="numpy") as file:
      metadata = file.metadata() or {}
      return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  # Among others for dtypes that NumPy does not have, such as bfloat16.
  except Exception as error:
    raise ModelFileError(f"cannot be read: {error}") from error


def _rounded(name: str, value: np.ndarray) -> np.ndarray:
  """The nearest float16 values, as float32; ModelFileError on overflow."""
  largest = float(np.max(np.abs(value), initial=0.0))
  with np.errstate(over="ignore"):
    rounded = value.astype(np.float16)
  if not np.all(np.isfinite(rounded)):
    raise ModelFileError(
      f"{name} holds {largest:.6g}, which float16 cannot (at most 65504): build"
      " the model without half"
    )
  return rounded.astype(np.float32)


def _check_params(
  config: presets.CodecConfig, flat: dict[str, np.ndarray]
) -> None:
  """Raises ModelFileError unless names, shapes, dtypes and values are sound."""
  expected = _shapes(config)
  if not any(name.startswith("orp/") for name in flat):
    expected = {k: v for k, v in expected.items() if k.startswith("codec/")}
  missing, unknown = (
    expected.keys() - flat.keys(),
    flat.keys() - expected.keys(),
  )
  problems = [f"{name} is missing" for name in sorted(missing)]
  problems += [f"{name} is unknown" for name in sorted(unknown)]
  for name in sorted(flat.keys() & expected.keys()):
    value, shape = flat[name], expected[name]
    if value.shape != shape:
      problems.append(f"{name} has shape {value.shape} instead of {shape}")
    elif value.dtype != np.float32:
      problems.append(f"{name} is {value.dtype} instead of float32")
    elif not np.all(np.isfinite(value)):
      problems.append(f"{name} holds a value that is not finite")
  if problems:
    more = len(problems) - _LISTED_NAMES
    raise ModelFileError(
      "parameters do not fit the configuration: "
      + "; ".join(problems[:_LISTED_NAMES])
      + (f"; and {more} more" if more > 0 else "")
    )


def _shapes(config: presets.CodecConfig) -> dict[str, tuple[int, ...]]:
  """Shapes of all parameters, those of an ORP head included, by path."""
  # Tracing the networks takes a second.
  store, key = program_store.current(), _canonical_json(config)
  kept = None if store is None else store.read("shapes", key)
  if kept is not None:
    return {name: tuple(shape) for name, shape in json.loads(kept).items()}
  from egic_jax.models import codec, orp

  codec_shapes = codec.param_shapes(config)
  trees = {"codec": codec_shapes, "orp": orp.init_from_synthesis(codec_shapes)}
  shapes = {name: tuple(x.shape) for name, x in _leaves(trees).items()}
  if store is not None:
    store.write("shapes", key, json.dumps(shapes).encode())
  return shapes


def _check_tables(
  config: presets.CodecConfig, tensors: dict[str, np.ndarray]
) -> dict[str, tables_lib.SymbolTables]:
  fields = [f.name for f in dataclasses.fields(tables_lib.SymbolTables)]
  sizes = {"gaussian": gaussian.NUM_SCALES, "prior": config.hyper_width}
  expected = {f"tables/{name}/{field}" for name in sizes for field in fields}
  found = {name for name in tensors if name.startswith("tables/")}
  if found != expected:
    raise ModelFileError(
      "has missing or unknown tables:"
      f" {', '.join(sorted(found ^ expected)[:_LISTED_NAMES])}"
    )
  tables = {}
  for name, size in sizes.items():
    table = tables_lib.SymbolTables(
      **{field: tensors[f"tables/{name}/{field}"] for field in fields}
    )
    try:
      table.check()
    except ValueError as error:
      raise ModelFileError(f"tables/{name} is damaged: {error}") from error
    if len(table) != size:
      raise ModelFileError(
        f"tables/{name} holds {len(table)} tables instead of {size}"
      )
    tables[name] = table
  return tables


def _canonical_json(config: presets.CodecConfig) -> str:
  fields = presets.config_to_dict(config)
  return json.dumps(fields, sort_keys=True, separators=(",", ":"))


def _fingerprint(
  config: presets.CodecConfig, flat: Mapping[str, np.ndarray]
) -> bytes:
  """Names configuration, codec parameters and tables; ORP touches no file."""
  own = {k: v for k, v in flat.items() if k.startswith(("codec/", "tables/"))}
  digest = _digest(own, _canonical_json(config).encode())
  return digest.digest()[: container.FINGERPRINT_BYTES]


def _digest(tensors: Mapping[str, np.ndarray], start: bytes = b""):
  """SHA-256 of names, shapes and little-endian values in the order of names."""
  digest = hashlib.sha256(start)
  for name in sorted(tensors):
    value = tensors[name]
    digest.update(f"\n{name} {list(value.shape)}\n".encode())
    digest.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
  return digest


def _in_order(data: bytes) -> bytes:
  """The same safetensors file with a sorted header.

  safetensors writes metadata in random order; a model's file should be the same
  bytes every time, so that its own checksum can be published.
  """
  start = 8 + int.from_bytes(data[:8], "little")
  header = json.dumps(
    json.loads(data[8:start]), sort_keys=True, separators=(",", ":")
  ).encode()
  header += b" " * (-len(header) % 8)
  return len(header).to_bytes(8, "little") + header + data[start:]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  leaves = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      leaves |= _leaves(value, f"{prefix}{name}/")
    else:
      leaves[f"{prefix}{name}"] = value
  return leaves


def _flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
  # safetensors wants its arrays contiguous.
  return {k: np.ascontiguousarray(v) for k, v in _leaves(tree).items()}


def _flatten_tables(
  tables: Mapping[str, tables_lib.SymbolTables],
) -> dict[str, np.ndarray]:
  return {
    f"tables/{name}/{field.name}": getattr(table, field.name)
    for name, table in tables.items()
    for field in dataclasses.fields(table)
  }


def _unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *path, last = name.split("/")
    node = tree
    for part in path:
      node = node.setdefault(part, {})
    node[last] = value
  return tree
