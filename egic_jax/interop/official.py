"""The official TensorFlow parameters, by checkpoint name, to ours and back.

The official release keeps one array per checkpoint name, such as
`analysis_transform/layer_with_weights-1/blocks/0/attn/qkv/kernel`. Every array
is ours unchanged but for the kernels of the slice networks: the official layers
are true convolutions, ours correlations, so these are flipped in both spatial
axes.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from egic_jax.models import codec, presets

Path = tuple[str, ...]

# What TensorFlow adds to the names of variables in a checkpoint.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class OfficialWeightsError(ValueError):
  """The arrays given are not those of the official model."""


@dataclasses.dataclass(frozen=True)
class Source:
  """Where one of our parameters lives in an official checkpoint.

  Attributes:
    name: the official checkpoint name.
    shape: of the array, there and here.
    flipped: it is reversed in both spatial axes.
  """

  name: str
  shape: tuple[int, ...]
  flipped: bool = False


def _block_leaf(path: Path) -> str:
  """Official name of a parameter inside a Swin block."""
  layer, leaf = "/".join(path[:-1]), path[-1]
  if leaf == "relative_position_bias":
    return "attn/relative_position_bias_table"
  layer = {
    "attention/qkv": "attn/qkv",
    "attention/proj": "attn/proj",
    "mlp_in": "mlp/layer_with_weights-0",
    "mlp_out": "mlp/layer_with_weights-1",
    "norm1": "norm1",
    "norm2": "norm2",
  }[layer]
  return f"{layer}/{_norm_leaf(leaf) if 'norm' in layer else leaf}"


def _norm_leaf(leaf: str) -> str:
  return {"scale": "gamma", "bias": "beta"}[leaf]


def _resolution_leaf(path: Path) -> str:
  """Official name inside a merging, splitting or unpacking layer."""
  layer, leaf = path
  return f"{layer}/{_norm_leaf(leaf) if layer == 'norm' else leaf}"


def number_of(name: str) -> int:
  """The number that one of our layers' names ends in."""
  return int(name.rsplit("_", 1)[1])


def _official_name(path: Path) -> str:
  """Official checkpoint name of one of our parameters, by its path."""
  group, rest = path[0], path[1:]
  if group == "orp":
    prefix, stage, rest = (
      "synthesis_transform/cond_model/layer_with_weights-0",
      "stage",
      rest[1:],
    )
    return _upward_name(prefix, rest)
  part, rest = rest[0], rest[1:]
  if part in ("analysis", "hyper_analysis"):
    prefix = f"{part}_transform/layer_with_weights-"
    layer, rest = rest[0], rest[1:]
    if layer == "patch_embedding":
      return f"{prefix}0/{rest[0]}"
    stage = f"{prefix}{number_of(layer) + 1}"
    if layer.startswith("merging"):
      return f"{stage}/downsample/{_resolution_leaf(rest)}"
    return f"{stage}/blocks/{number_of(rest[0])}/{_block_leaf(rest[1:])}"
  if part in ("synthesis", "hyper_synthesis"):
    name = {
      "synthesis": "synthesis_transform",
      "hyper_synthesis": "hyper_synthesis_mean_scale_transform",
    }[part]
    stage = f"{name}/layer_with_weights-{number_of(rest[0])}"
    return _upward_name(stage, rest[1:])
  if part == "charm":
    network, conv, leaf = rest
    kind = "mean" if network.startswith("mean") else "scale"
    return (
      f"cc_{kind}_transforms/{number_of(network)}/transform/"
      f"layer_with_weights-{number_of(conv)}/_{leaf}_parameter"
    )
  if part == "prior":
    return f"hyperprior/_base/_{rest[0][:-2]}/{number_of(rest[0])}"
  raise ValueError(f"no official name for parameter {'/'.join(path)}")


def _upward_name(stage: str, rest: Path) -> str:
  if rest[0] == "blocks":
    return f"{stage}/blocks/{number_of(rest[1])}/{_block_leaf(rest[2:])}"
  return f"{stage}/upsample/{_resolution_leaf(rest[1:])}"


def paths(tree: Any, path: Path = ()) -> Iterable[tuple[Path, Any]]:
  """(path, leaf) of every leaf of nested mappings."""
  if isinstance(tree, Mapping):
    for name, branch in tree.items():
      yield from paths(branch, (*path, name))
  else:
    yield path, tree


def _sources(config: presets.CodecConfig, with_orp: bool) -> dict[Path, Source]:
  """Our parameters' paths, each with its place in an official checkpoint."""
  shapes = codec.param_shapes(config)
  tree = {"codec": shapes}
  if with_orp:
    tree["orp"] = {"head": shapes["synthesis"]["stage_3"]}
  sources = {}
  for path, leaf in paths(tree):
    flipped = path[:2] == ("codec", "charm") and path[-1] == "kernel"
    sources[path] = Source(_official_name(path), leaf.shape, flipped)
  return sources


def _is_orp(name: str) -> bool:
  return "/cond_model/" in name


def names(
  config: presets.CodecConfig, with_orp: bool = False
) -> dict[str, tuple[int, ...]]:
  """Every official name that a model of this size has, with its shape."""
  return {s.name: s.shape for s in _sources(config, with_orp).values()}


def gather(
  sources: Mapping[Path, Source], arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """A tree of float32 numpy arrays, each taken from its source.

  Args:
    sources: {path in the tree: source}.
    arrays: {official name: array}; exactly those that the sources name.

  Returns:
    Nested dictionaries by the paths.

  Raises:
    OfficialWeightsError: arrays are missing, unknown, misshapen (each listed by
      name) or not finite.
  """
  expected = {s.name: s for s in sources.values()}
  missing = sorted(expected.keys() - arrays.keys())
  extra = sorted(arrays.keys() - expected.keys())
  misshapen = [
    f"{name} {tuple(np.shape(arrays[name]))} instead of {source.shape}"
    for name, source in sorted(expected.items())
    if name in arrays and tuple(np.shape(arrays[name])) != source.shape
  ]
  problems = [
    f"{len(found)} {what}: {', '.join(found)}"
    for what, found in (
      ("missing", missing),
      ("unknown", extra),
      ("misshapen", misshapen),
    )
    if found
  ]
  if problems:
    raise OfficialWeightsError(
      "not the official model of this size; arrays " + "; ".join(problems)
    )
  tree: dict[str, Any] = {}
  for path, source in sources.items():
    value = np.asarray(arrays[source.name], np.float32)
    if not np.isfinite(value).all():
      raise OfficialWeightsError(f"{source.name} has non-finite values")
    branch = tree
    for name in path[:-1]:
      branch = branch.setdefault(name, {})
    branch[path[-1]] = value[::-1, ::-1].copy() if source.flipped else value
  return tree


def scatter(
  sources: Mapping[Path, Source], params: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Inverse of `gather`: {official name: float32 array}."""
  leaves = dict(paths(params))
  arrays = {}
  for path, source in sources.items():
    value = np.asarray(jax.device_get(leaves[path]), np.float32)
    arrays[source.name] = value[::-1, ::-1] if source.flipped else value
  return arrays


def from_official(
  arrays: Mapping[str, np.ndarray], config: presets.CodecConfig
) -> dict[str, Any]:
  """Our parameter tree from arrays under official names.

  Args:
    arrays: {official checkpoint name: array}, the names as they are once the
      checkpoint's own prefix and suffix are stripped. Those of the ORP model
      (`.../cond_model/...`) are taken along when there are any.
    config: the size; the official one is the preset `full`.

  Returns:
    {"codec": ...} or {"codec": ..., "orp": ...}, float32 numpy arrays.

  Raises:
    OfficialWeightsError: arrays are missing, unknown or misshapen; each is
      listed by name.
  """
  return gather(_sources(config, any(_is_orp(name) for name in arrays)), arrays)


def to_official(
  params: Mapping[str, Any], config: presets.CodecConfig
) -> dict[str, np.ndarray]:
  """Inverse of `from_official`: {official name: float32 array}."""
  known = {k: params[k] for k in ("codec", "orp") if k in params}
  return scatter(_sources(config, "orp" in params), known)


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads {official name: array} from a file.

  Args:
    path: a `.npz` with official names as keys, or the prefix of a TensorFlow
      checkpoint (`.../ckpt-1000000`), for which TensorFlow must be installed.

  Returns:
    The model's arrays; optimiser slots and counters are left out, and names
    lose what stands before the first part of the model.

  Raises:
    OfficialWeightsError: no such file, not readable, or no TensorFlow.
  """
  return _strip(read_named(path))


def read_named(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """As `read_arrays`, of whichever model, with names as they are stored."""
  path = pathlib.Path(path)
  if path.suffix == ".npz":
    try:
      with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
      raise OfficialWeightsError(f"no such file: {path}") from None
    except Exception as error:  # zipfile, zlib and numpy raise many kinds.
      raise OfficialWeightsError(
        f"{path} is no readable .npz: {error}"
      ) from None
  if path.with_name(path.name + ".index").exists():
    return _read_tensorflow(path)
  raise OfficialWeightsError(
    f"{path} is neither a .npz file nor the prefix of a TensorFlow checkpoint"
    f" (there is no {path.name}.index)"
  )


def _read_tensorflow(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    import tensorflow as tf  # Optional: nothing else here needs it.
  except ImportError:
    raise OfficialWeightsError(
      f"reading the TensorFlow checkpoint {path} needs TensorFlow; install"
      " tensorflow-cpu, or save its arrays as a .npz under their names"
    ) from None
  reader = tf.train.load_checkpoint(str(path))
  return {
    name: reader.get_tensor(name)
    for name in reader.get_variable_to_shape_map()
    if ".OPTIMIZER_SLOT" not in name and name.endswith(SUFFIX)
  }


# How the official names of the codec and of ORP begin.
PARTS = (
  "analysis_transform/",
  "synthesis_transform/",
  "hyper_analysis_transform/",
  "hyper_synthesis_mean_scale_transform/",
  "cc_mean_transforms/",
  "cc_scale_transforms/",
  "hyperprior/",
)


def _strip(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Names from the model's part on; what is no part of the model stays out."""
  stripped = {}
  for name, array in arrays.items():
    clean = name.removesuffix(SUFFIX)
    components = clean.split("/")
    for i in range(len(components)):
      tail = "/".join(components[i:])
      if tail.startswith(PARTS):
        stripped[tail] = array
        break
    else:
      if name == clean:  # Not from a checkpoint: report it, do not drop it.
        stripped[name] = array
  return stripped
