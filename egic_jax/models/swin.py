"""Swin transformer blocks and the layers that change resolution.

Liu et al., Swin Transformer, ICCV 2021; as in SwinT-ChARM (Zhu, Yang, Cohen,
ICLR 2022). All maps are (B, H, W, C). Parameters are float32; `dtype` is the
type that products are computed in. `valid` is the extent of the map that counts
(`ops.extents`), in tokens.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.ops import (
  attention,
  extents,
  gelu,
  layer_norm,
  linear,
  space_to_depth,
  windows,
)


class LayerNorm(nn.Module):
  """Over channels, statistics in float32; parameters of nn.LayerNorm."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(..., C) > (..., C), of `dtype`."""
    scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
    bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
    return layer_norm.layer_norm(x, scale, bias).astype(self.dtype)


# Parameters and values of nn.Dense.
dense = functools.partial(nn.Dense, dot_general=linear.dot_general)


class WindowAttention(nn.Module):
  """Self-attention in windows with a learned relative position bias."""

  num_heads: int
  window: int
  shift: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """(B, H, W, C) > (B, H, W, C)."""
    _, height, width, channels = x.shape
    tokens = self.window**2
    table = self.param(
      "relative_position_bias",
      nn.initializers.zeros,
      ((2 * self.window - 1) ** 2, self.num_heads),
    )
    bias = table[windows.relative_position_index(self.window).reshape(-1)]
    bias = bias.reshape(tokens, tokens, self.num_heads).transpose(2, 0, 1)
    regions = windows.regions(height, width, self.window, self.shift, valid)

    x = windows.partition(x, self.window, self.shift)
    qkv = dense(3 * channels, dtype=self.dtype, name="qkv")(x)
    x = attention.window_attention(qkv, bias, regions, num_heads=self.num_heads)
    x = dense(channels, dtype=self.dtype, name="proj")(x)
    return windows.merge(x, self.window, height, width, self.shift)


class SwinBlock(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  num_heads: int
  window: int
  shift: int
  mlp_ratio: int = 4
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """(B, H, W, C) > (B, H, W, C)."""
    channels = x.shape[-1]
    x = x + WindowAttention(
      self.num_heads, self.window, self.shift, self.dtype, name="attention"
    )(LayerNorm(self.dtype, name="norm1")(x), valid)
    hidden = dense(
      self.mlp_ratio * channels,
      dtype=self.dtype,
      name="mlp_in",
    )(LayerNorm(self.dtype, name="norm2")(x))
    hidden = gelu.gelu(hidden)
    return x + dense(channels, dtype=self.dtype, name="mlp_out")(hidden)


class SwinBlocks(nn.Module):
  """`depth` blocks of one width; every second one with shifted windows.

  With `remat` the backward pass computes each block anew, from its input, which
  is all that is kept of it. Values and parameters are the same.
  """

  depth: int
  num_heads: int
  window: int
  mlp_ratio: int = 4
  dtype: Any = jnp.float32
  remat: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """(B, H, W, C) > (B, H, W, C)."""
    block = nn.remat(SwinBlock) if self.remat else SwinBlock
    for i in range(self.depth):
      x = block(
        self.num_heads,
        self.window,
        shift=self.window // 2 if i % 2 else 0,
        mlp_ratio=self.mlp_ratio,
        dtype=self.dtype,
        name=f"block_{i}",
      )(x, valid)
    return x


class PatchMerging(nn.Module):
  """(B, H, W, C) > (B, H/2, W/2, features): phases, norm, Dense, no bias."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = LayerNorm(self.dtype, name="norm")(space_to_depth.merge_phases(x))
    return dense(
      self.features,
      use_bias=False,
      dtype=self.dtype,
      name="reduction",
    )(x)


class PatchSplitting(nn.Module):
  """(B, H, W, C) > (B, 2H, 2W, features): Dense, no bias, norm, phases."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = dense(
      4 * self.features,
      use_bias=False,
      dtype=self.dtype,
      name="reduction",
    )(x)
    return space_to_depth.depth_to_space(LayerNorm(self.dtype, name="norm")(x))


class PatchUnpack(nn.Module):
  """(B, H, W, C) > (B, 2H, 2W, features) float32: Dense with bias, phases."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = dense(
      4 * self.features,
      dtype=self.dtype,
      name="reduction",
    )(x)
    return space_to_depth.depth_to_space(x.astype(jnp.float32))
