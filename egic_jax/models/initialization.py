"""Untrained parameters, drawn on the host by their names.

Each array comes from a generator seeded with the seed and the parameter's
path, so parameters are the same on every backend and mesh, do not move when
others are added, and cost no compilation (drawing them in a jitted `init` takes
longer to compile than the training step).
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from egic_jax.entropy import factorized, gaussian
from egic_jax.models import rate_gains

# Layers whose output is added to what is there already, or is the image: start
# by adding little.
_SMALL = ("proj", "mlp_out", "unpack/reduction")


def draw(shapes: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """Parameters for a tree of shapes.

  Args:
    shapes: nested mapping with leaves that have a `.shape`, such as
      `codec.param_shapes` gives.
    seed: non-negative.

  Returns:
    The same tree with float32 numpy arrays.
  """
  return _draw(shapes, seed, "")


def _draw(tree, seed, path):
  drawn = {}
  for name, leaf in tree.items():
    here = f"{path}/{name}" if path else name
    if isinstance(leaf, Mapping):
      drawn[name] = _draw(leaf, seed, here)
    else:
      rng = np.random.Generator(
        np.random.Philox([seed, zlib.crc32(here.encode())])
      )
      drawn[name] = _draw_leaf(here, leaf.shape, rng).astype(np.float32)
  return drawn


def _draw_leaf(path: str, shape, rng: np.random.Generator) -> np.ndarray:
  *_, layer, name = path.rsplit("/", 2)
  if path.startswith("prior/"):
    return factorized.draw_parameter(name, shape, rng)
  if path.startswith("rate/"):
    return rate_gains.draw(name, shape)
  if name == "kernel":
    if path.rsplit("/", 1)[0].endswith(_SMALL):
      return 0.02 * rng.standard_normal(shape)
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, shape)
  if name == "relative_position_bias":
    return 0.02 * rng.standard_normal(shape)
  if name == "scale":
    return np.ones(shape)
  if name == "bias":
    return np.full(shape, _bias(path))
  raise ValueError(f"no rule to initialise parameter {path!r}")


def _bias(path: str) -> float:
  if path.endswith("conv_2/bias") and "/scale_" in path:
    # Standard deviations start at one: at the smallest, untrained latents would
    # cost hundreds of bits each and their gradients drown the rest.
    return gaussian.index_of_scale(1.0)
  if path.startswith("synthesis/") and path.endswith("unpack/reduction/bias"):
    return 0.5  # Mid-grey.
  return 0.0
