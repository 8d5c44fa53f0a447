"""Layer normalisation and dense layers, as Swin blocks are made of.

Parameters are float32 and named as those of Flax's own; `dtype` is the type that
products are computed in.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.ops import fused_layer_norm, layer_norm, linear


class LayerNorm(nn.Module):
  """Over channels, statistics in float32; parameters of nn.LayerNorm.

  Attributes:
    dtype: of the output.
    fused: by a kernel where there is one (`ops.fused_layer_norm`).
  """

  dtype: Any = jnp.float32
  fused: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x as it is, and normalised, of `dtype`: both (..., C)."""
    channels = x.shape[-1]
    scale = self.param("scale", nn.initializers.ones, (channels,))
    bias = self.param("bias", nn.initializers.zeros, (channels,))
    same = x.dtype == self.dtype
    if (
      self.fused
      and same
      and fused_layer_norm.usable(channels=channels, dtype=x.dtype)
    ):
      return fused_layer_norm.layer_norm_and_input(x, scale, bias)
    return x, layer_norm.layer_norm(x, scale, bias).astype(self.dtype)


def dense(features: int, factor_dtype: Any = None, **options) -> nn.Dense:
  """nn.Dense, its parameters and values; `factor_dtype` as in `ops.linear`."""
  dot_general = functools.partial(linear.dot_general, factor_dtype=factor_dtype)
  return nn.Dense(features, dot_general=dot_general, **options)


class DenseParameters(nn.Module):
  """The parameters of nn.Dense, for what computes with them itself."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
    """Kernel (channels, features) and bias (features,), of `dtype`."""
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (channels, self.features)
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return kernel.astype(self.dtype), bias.astype(self.dtype)
