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
from egic_jax.ops import gpu_kernel, space_to_depth


class PatchMerging(nn.Module):
  """(B, H, W, C) > (B, H/2, W/2, features): phases, norm, Dense, no bias."""

  features: int
  dtype: Any = jnp.float32
  kernels: gpu_kernel.Devices | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    if self.kernels:
      # Made part of it, the sum that x is makes the transposition slow on GPUs.
      x = jax.lax.optimization_barrier(x)
    _, x = layers.LayerNorm(self.dtype, self.kernels, name="norm")(
      space_to_depth.merge_phases(x)
    )
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
    _, x = layers.LayerNorm(self.dtype, self.kernels, name="norm")(x)
    return space_to_depth.depth_to_space(x)


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
