"""Layers that halve or double the resolution of a map.

Those between the stages of SwinT-ChARM (Zhu, Yang, Cohen, ICLR 2022). `dtype` is
the type that products are computed in; `kernels` is for normalisation
(`layers.LayerNorm`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.models import layers
from egic_jax.ops import (
  fused_layer_norm,
  gpu_kernel,
  layer_norm,
  space_to_depth,
)


class PhaseNorm(layers.LayerNorm):
  """Layer normalisation of phases of a map, which move; by a kernel, meanwhile."""

  merged: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, H, W, C) > (B, H/2, W/2, 4C), or > (B, 2H, 2W, C/4), of `dtype`.

    Phases are merged first, or what is normalised is put in their places.
    """
    channels = (4 if self.merged else 1) * x.shape[-1]
    parameters = self.parameters(channels)
    if self.has_kernel(x, channels):
      return fused_layer_norm.layer_norm_of_phases(
        x, *parameters, merged=self.merged, devices=self.kernels
      )
    if self.merged:
      x = space_to_depth.merge_phases(x)
    x = layer_norm.layer_norm(x, *parameters).astype(self.dtype)
    return x if self.merged else space_to_depth.depth_to_space(x)


class PatchMerging(nn.Module):
  """(B, H, W, C) > (B, H/2, W/2, features): phases, norm, Dense, no bias."""

  features: int
  dtype: Any = jnp.float32
  kernels: gpu_kernel.Devices | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = PhaseNorm(self.dtype, self.kernels, name="norm")(x)
    return layers.dense(
      self.features,
      use_bias=False,
      dtype=self.dtype,
      name="reduction",
    )(x)


class PatchSplitting(nn.Module):
  """(B, H, W, C) > (B, 2H, 2W, features): Dense, no bias, norm, phases."""

  features: int
  dtype: Any = jnp.float32
  kernels: gpu_kernel.Devices | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.dense(
      4 * self.features,
      use_bias=False,
      dtype=self.dtype,
      name="reduction",
    )(x)
    norm = PhaseNorm(self.dtype, self.kernels, merged=False, name="norm")
    return norm(x)


class PatchUnpack(nn.Module):
  """(B, H, W, C) > (B, 2H, 2W, features) float32: Dense with bias, phases."""

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.dense(
      4 * self.features,
      dtype=self.dtype,
      name="reduction",
    )(x)
    return space_to_depth.depth_to_space(x.astype(jnp.float32))
