"""Layer normalisation and dense layers, as Swin blocks are made of.

Parameters are float32 and named as those of Flax's own; `dtype` is the type that
products are computed in.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.ops import fused_layer_norm, gpu_kernel, layer_norm, linear


class Sum(NamedTuple):
  """A map and what a branch adds to it, before they are added.

  Attributes:
    x: (..., C).
    branch: (..., C), of x's type.
    bias: (C,), part of what is added, of any type.
  """

  x: jax.Array
  branch: jax.Array
  bias: jax.Array

  def added(self) -> jax.Array:
    """x + (branch + bias), of x's type."""
    return self.x + (self.branch + self.bias.astype(self.branch.dtype))


class LayerNorm(nn.Module):
  """Over channels, statistics in float32; parameters of nn.LayerNorm.

  Attributes:
    dtype: of the output.
    kernels: devices that do it by a kernel, if there is one
      (`ops.fused_layer_norm`).
  """

  dtype: Any = jnp.float32
  kernels: gpu_kernel.Devices | None = None

  @nn.compact
  def __call__(self, x: jax.Array | Sum) -> tuple[jax.Array, jax.Array]:
    """The map or sum, and the same normalised, of `dtype`: both (..., C)."""
    parts = x if isinstance(x, Sum) else Sum(x, None, None)
    parameters = self.parameters(parts.x.shape[-1])
    if self.has_kernel(parts.x, parts.x.shape[-1]):
      return fused_layer_norm.layer_norm_of_sum(
        *parts, *parameters, devices=self.kernels
      )
    x = added(x)
    return x, layer_norm.layer_norm(x, *parameters).astype(self.dtype)

  def parameters(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """Scale and bias, (channels,) float32."""
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    return scale, bias

  def has_kernel(self, x: jax.Array, channels: int) -> bool:
    """Whether there is one that normalises so many channels of this batch."""
    return bool(
      self.kernels
      and self.kernels.share(len(x))
      and x.dtype == self.dtype
      and fused_layer_norm.usable(channels=channels, dtype=self.dtype)
    )


def added(x: jax.Array | Sum) -> jax.Array:
  """A map as it is, or what a sum comes to: (..., C)."""
  return x.added() if isinstance(x, Sum) else x


def dense(features: int, **options) -> nn.Dense:
  """nn.Dense, its parameters and values, by the product of `ops.linear`."""
  return nn.Dense(features, dot_general=linear.dot_general, **options)


class DenseParameters(nn.Module):
  """The parameters of nn.Dense, for what computes with them itself."""

  features: int

  @nn.compact
  def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """Kernel (channels, features) and bias (features,), float32."""
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (channels, self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return kernel, bias


class ConvParameters(nn.Module):
  """The parameters of nn.Conv with a square kernel, likewise."""

  side: int
  features: int

  @nn.compact
  def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """Kernel (side, side, channels, features) and bias (features,), float32."""
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (self.side, self.side, channels, self.features),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return kernel, bias
