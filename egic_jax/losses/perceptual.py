"""LPIPS, version 0.1: distance of images in the features of a classifier.

Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric, CVPR 2018. Features of five layers of AlexNet or VGG16, each normalised
over channels; the squared differences, weighted per channel by the trained
"linear heads" of version 0.1 and averaged over the picture, add up.

Weights are a user's own files: see `egic_jax.interop.lpips_weights`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

VERSION = "0.1"

# The classifiers' normalisation of colours, for images in [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)
_EPSILON = 1e-10


@dataclasses.dataclass(frozen=True)
class _Conv:
  """A convolution followed by ReLU.

  Attributes:
    number: of the layer in torchvision's `features`.
    inputs, outputs: channels.
    size: side of the kernel.
    stride: of the kernel.
    pool: side of the maximum pooling with stride 2 before it; 0 for none.
    compared: its output enters the distance.
  """

  number: int
  inputs: int
  outputs: int
  size: int = 3
  stride: int = 1
  pool: int = 0
  compared: bool = True

  @property
  def padding(self) -> int:
    # AlexNet's first layer is the only one that shrinks the map: 11, padded 2.
    return 2 if self.size == 11 else self.size // 2


def _vgg16() -> tuple[_Conv, ...]:
  convs, number, inputs = [], 0, 3
  for group, (outputs, count) in enumerate(
    ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
  ):
    for i in range(count):
      pool = 2 if group and i == 0 else 0
      convs.append(
        _Conv(number, inputs, outputs, pool=pool, compared=i == count - 1)
      )
      inputs = outputs
      number += 2  # Its ReLU is a layer too,
    number += 1  # and so is the pooling.
  return tuple(convs)


NETWORKS: Mapping[str, tuple[_Conv, ...]] = {
  "alex": (
    _Conv(0, 3, 64, size=11, stride=4),
    _Conv(3, 64, 192, size=5, pool=3),
    _Conv(6, 192, 384, pool=3),
    _Conv(8, 384, 256),
    _Conv(10, 256, 256),
  ),
  "vgg": _vgg16(),
}


def network(name: str) -> tuple[_Conv, ...]:
  """The layers of "alex" or "vgg"; ValueError for another name."""
  if name not in NETWORKS:
    raise ValueError(
      f"no LPIPS network {name!r}; there are {', '.join(NETWORKS)}"
    )
  return NETWORKS[name]


def param_shapes(name: str) -> dict[str, Any]:
  """Tree of jax.ShapeDtypeStruct of a network's parameters.

  {"conv_<number>": {"kernel" (h, w, in, out), "bias" (out,)}, ...,
  "head_<0..4>": {"kernel" (channels,)}}.
  """
  shapes: dict[str, Any] = {}
  float32 = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
  for conv in network(name):
    shapes[f"conv_{conv.number}"] = {
      "kernel": float32((conv.size, conv.size, conv.inputs, conv.outputs)),
      "bias": float32((conv.outputs,)),
    }
  compared = [conv for conv in network(name) if conv.compared]
  for i, conv in enumerate(compared):
    shapes[f"head_{i}"] = {"kernel": float32((conv.outputs,))}
  return shapes


def lpips(
  params: Mapping[str, Any],
  a: jax.Array,
  b: jax.Array,
  *,
  network_name: str = "alex",
  dtype: Any = jnp.float32,
) -> jax.Array:
  """LPIPS distance of each pair of images.

  Args:
    params: of the network, see `param_shapes`; constants to training.
    a, b: (B, H, W, 3), [0, 1]; mapped to [-1, 1] here. Not clipped: a
      reconstruction outside keeps its gradient. Sides of at least 32.
    network_name: "alex" (the official loss, and the metric) or "vgg".
    dtype: type that convolutions are computed in; distances are float32.

  Returns:
    (B,) float32, 0 for equal images.

  Raises:
    ValueError: no such network, or images too small for it.
  """
  chex.assert_rank(a, 4)
  chex.assert_equal_shape([a, b])
  if min(a.shape[1:3]) < 32:
    raise ValueError(
      f"images are {a.shape[1]}x{a.shape[2]}; LPIPS needs sides of at least 32"
    )
  # Both in one pass: larger products, and one program for the compiler. In
  # turn, so that a batch that is split over devices stays where it is.
  pairs = jnp.stack([a, b], axis=1)
  features = _features(
    params, pairs.reshape(-1, *a.shape[1:]), network(network_name), dtype
  )
  distance = jnp.zeros(a.shape[0], jnp.float32)
  for i, feature in enumerate(features):
    units = _normalise(feature)
    units = units.reshape(-1, 2, *units.shape[1:])
    squared = jnp.square(units[:, 0] - units[:, 1])
    weighted = jnp.sum(squared * params[f"head_{i}"]["kernel"], axis=-1)
    distance = distance + jnp.mean(weighted, axis=(1, 2))
  return distance


def _normalise(x: jax.Array) -> jax.Array:
  """x / (length over channels + 1e-10), float32; 0 and its gradient at 0."""
  squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  some = squared > 0.0
  length = jnp.sqrt(jnp.where(some, squared, 1.0))
  return jnp.where(some, x / (length + _EPSILON), 0.0)


def _features(params, image, layers, dtype) -> list[jax.Array]:
  """The compared layers' outputs, float32, for images in [0, 1]."""
  x = ((2.0 * image - 1.0) - _SHIFT) / _SCALE
  x = x.astype(dtype)
  compared = []
  for layer in layers:
    if layer.pool:
      x = _max_pool(x, layer.pool)
    conv = params[f"conv_{layer.number}"]
    x = jax.lax.conv_general_dilated(
      x,
      jnp.asarray(conv["kernel"], dtype),
      (layer.stride,) * 2,
      [(layer.padding,) * 2] * 2,
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = jax.nn.relu(x + jnp.asarray(conv["bias"], dtype))
    if layer.compared:
      compared.append(x.astype(jnp.float32))
  return compared


def _max_pool(x: jax.Array, size: int) -> jax.Array:
  """Maximum of size x size with stride 2, without padding."""
  return jax.lax.reduce_window(
    x,
    -jnp.inf,
    jax.lax.max,
    (1, size, size, 1),
    (1, 2, 2, 1),
    "VALID",
  )
