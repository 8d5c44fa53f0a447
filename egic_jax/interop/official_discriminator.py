"""The official parameters of OASIS-C, by checkpoint name, to ours and back.

The official network is a flat list of layers, numbered in the order of their
making: the blocks down, the blocks up but the last, the latent's embedding, the
last block up, the logits. A weight-normalised convolution keeps its direction
`v`, its length `g` and `layer/bias`. All arrays are ours unchanged.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from egic_jax.interop import official
from egic_jax.models.discriminators import oasis_c, presets

_LAYER = "layer_with_weights-"
# Layers are wrapped in a sequence of their own, with or without activation.
_INNER = f"{_LAYER}0"
_LEAVES = {"kernel": "v", "scale": "g", "bias": "layer/bias"}
_CONVS = {"conv1": "conv1", "conv2": "conv2", "shortcut": "conv_s"}
# Weight norm's note that it has been initialised from data; not a parameter.
_INITIALIZED = "/_initialized"


def _official_name(path: official.Path, depth: int) -> str:
  """Official checkpoint name of one of our parameters, by its path."""
  layer, *inside, leaf = path
  if layer == "logits":
    return f"{_LAYER}{2 * depth + 1}/{_INNER}/{leaf}"
  if layer == "embedding":
    return f"{_LAYER}{2 * depth - 1}/{_INNER}/{_LEAVES[leaf]}"
  number = official.number_of(layer)
  if layer.startswith("up"):
    number += depth
    if number == 2 * depth - 1:  # The embedding was made before the last block.
      number += 1
  return f"{_LAYER}{number}/{_CONVS[inside[0]]}/{_INNER}/{_LEAVES[leaf]}"


def _sources(
  config: presets.DiscriminatorConfig,
) -> dict[official.Path, official.Source]:
  for name, needed in (
    ("conditioning", "projection"),
    ("normalization", "weight"),
  ):
    if getattr(config, name) != needed:
      raise ValueError(
        f"{name} is {getattr(config, name)!r}; the official discriminator's is"
        f" {needed!r}"
      )
  depth = len(config.encoder_widths)
  return {
    ("discriminator", *path): official.Source(
      _official_name(path, depth), leaf.shape
    )
    for path, leaf in official.paths(oasis_c.param_shapes(config))
  }


def names(
  config: presets.DiscriminatorConfig,
) -> dict[str, tuple[int, ...]]:
  """Every official name that a network of this size has, with its shape."""
  return {s.name: s.shape for s in _sources(config).values()}


def from_official(
  arrays: Mapping[str, np.ndarray], config: presets.DiscriminatorConfig
) -> dict[str, Any]:
  """Our parameter tree from arrays under official names.

  Args:
    arrays: {official checkpoint name: array}, names as `read_arrays` gives.
    config: the size; the official one is the preset `full`.

  Returns:
    {"discriminator": ...}, float32 numpy arrays.

  Raises:
    official.OfficialWeightsError: arrays are missing, unknown or misshapen;
      each is listed by name.
    ValueError: the configuration is not of the official kind.
  """
  return official.gather(_sources(config), arrays)


def to_official(
  params: Mapping[str, Any], config: presets.DiscriminatorConfig
) -> dict[str, np.ndarray]:
  """Inverse of `from_official`: {official name: float32 array}."""
  return official.scatter(
    _sources(config), {"discriminator": params["discriminator"]}
  )


def read_arrays(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """Reads {official name: array} of the discriminator from a file.

  Args:
    path: see `official.read_arrays`. The file may hold the codec too.

  Returns:
    The discriminator's arrays, names beginning with the number of the layer.

  Raises:
    official.OfficialWeightsError: no such file, not readable, or no TensorFlow.
  """
  codec = {part.rstrip("/") for part in official.PARTS}
  arrays = {}
  for name, array in official.read_named(path).items():
    clean = name.removesuffix(official.SUFFIX)
    components = clean.split("/")
    if codec.intersection(components) or clean.endswith(_INITIALIZED):
      continue
    start = next(
      (i for i, part in enumerate(components) if part.startswith(_LAYER)), None
    )
    if start is not None:
      arrays["/".join(components[start:])] = array
    elif name == clean:  # Not from a checkpoint: report it, do not drop it.
      arrays[name] = array
  return arrays
