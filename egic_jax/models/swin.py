"""Swin transformer blocks.

Liu et al., Swin Transformer, ICCV 2021; as in SwinT-ChARM (Zhu, Yang, Cohen,
ICLR 2022). All maps are (B, H, W, C). Parameters are float32; `dtype` is the
type that products are computed in. `valid` is the extent of the map that counts
(`ops.extents`), in tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.models import layers
from egic_jax.ops import (
  attention,
  extents,
  fused_attention,
  fused_mlp,
  gelu,
  gpu_kernel,
  linear,
  windows,
)


@dataclasses.dataclass(frozen=True)
class Execution:
  """How Swin blocks are evaluated, and slice networks. Parameters are the same.

  So are values, but for rounding where there is a type for factors.

  Attributes:
    remat: the backward pass computes each block anew, from its input, which is
      all that is kept of it.
    chunked: a block's windows are taken in turn, as many at a time as a
      processor's cache holds, so that what one layer makes is still there when
      the next one reads it. For the CPU; an accelerator has better uses for
      many windows. With `remat`, no more than one chunk's activations are ever
      held in the backward pass.
    factor_dtype: type that factors of a block's dense products are rounded to,
      see `ops.linear`; None: that of activations.
    kernels: devices on which attention, windows and all, is one kernel, so is
      normalisation, and GELU is part of products, where there are kernels
      (`ops.fused_attention`, `ops.fused_layer_norm`, `ops.fused_mlp`). None:
      all is left to the compiler.
    entropy_dtype: of the entropy model in training, see `codec.Codec`; None:
      float32, as it has to be for coding.
  """

  remat: bool = False
  chunked: bool = False
  factor_dtype: Any = None
  kernels: gpu_kernel.Devices | None = None
  entropy_dtype: Any = None

  @classmethod
  def of_inference(
    cls, platform: str, compute_dtype: Any = jnp.float32
  ) -> "Execution":
    """What is fastest without gradients on "cpu", "gpu" or "tpu"."""
    return cls(
      chunked=platform == "cpu",
      factor_dtype=_factor_dtype(platform, compute_dtype),
      kernels=gpu_kernel.ONE_DEVICE if platform == "gpu" else None,
    )

  @classmethod
  def of_training(
    cls,
    platform: str,
    devices: gpu_kernel.Devices,
    remat: bool,
    compute_dtype: Any = jnp.float32,
  ) -> "Execution":
    """What serves a training on these devices; `remat` is the user's."""
    # Chunks of windows that several devices hold would have to be gathered.
    return cls(
      remat,
      chunked=remat and platform == "cpu" and devices.mesh is None,
      factor_dtype=_factor_dtype(platform, compute_dtype),
      kernels=devices if platform == "gpu" else None,
      entropy_dtype=compute_dtype
      if platform == "gpu" and jnp.dtype(compute_dtype).itemsize < 4
      else None,
    )


def activation_dtype(platform: str, compute_dtype: Any) -> Any:
  """The `dtype` of modules that are to compute in `compute_dtype`.

  CPUs with instructions for bfloat16 have them for products alone, and convert
  before and after all else: there activations stay float32, and only factors of
  products are narrow (`Execution.factor_dtype`).
  """
  if platform == "cpu":
    return jnp.promote_types(compute_dtype, jnp.float32)
  return compute_dtype


def _factor_dtype(platform, compute_dtype):
  wide = jnp.dtype(activation_dtype(platform, compute_dtype))
  return None if wide == jnp.dtype(compute_dtype) else compute_dtype


class WindowAttention(nn.Module):
  """Self-attention in windows with a learned relative position bias."""

  num_heads: int
  window: int
  dtype: Any = jnp.float32
  factor_dtype: Any = None

  @nn.compact
  def __call__(
    self, x: jax.Array, attend: Callable[..., jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """Of tokens as `attend` takes them: (..., C) > (..., C) and a bias (C,).

    Args:
      x: windows (N, tokens, C), or a map (B, H, W, C).
      attend: what attention is without parameters: of queries, keys and values
        side by side, (..., 3 * C), their bias (3 * C,), and the position bias
        (heads, tokens, tokens).

    Returns:
      What is not yet added up.
    """
    channels = x.shape[-1]
    tokens = self.window**2
    table = self.param(
      "relative_position_bias",
      nn.initializers.zeros,
      ((2 * self.window - 1) ** 2, self.num_heads),
    )
    position_bias = table[
      windows.relative_position_index(self.window).reshape(-1)
    ]
    position_bias = position_bias.reshape(tokens, tokens, self.num_heads)
    kernel, bias = layers.DenseParameters(3 * channels, name="qkv")(channels)
    qkv = linear.product(x.astype(self.dtype), kernel, None, self.factor_dtype)
    x = attend(qkv, bias, position_bias.transpose(2, 0, 1))
    kernel, bias = layers.DenseParameters(channels, name="proj")(channels)
    return linear.product(x, kernel, None, self.factor_dtype), bias


class SwinBlock(nn.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  num_heads: int
  window: int
  shift: int
  mlp_ratio: int = 4
  dtype: Any = jnp.float32
  execution: Execution = Execution()

  @nn.compact
  def __call__(
    self, x: jax.Array | layers.Sum, valid: extents.Extent | None = None
  ) -> jax.Array | layers.Sum:
    """(B, H, W, C) > (B, H, W, C); by kernels, a sum that the next one adds up."""
    shape = jax.tree.leaves(x)[0].shape
    _, height, width, channels = shape
    regions = windows.regions(height, width, self.window, self.shift, valid)

    def cut(x):
      return windows.partition(x, self.window, self.shift)

    def join(x):
      return windows.merge(x, self.window, height, width, self.shift)

    if self._has_attention_kernel(shape):
      return self._computation(lambda x: x, lambda x: x)(self, x, regions)
    x = layers.added(x)
    count = 1
    if self.execution.chunked:
      rows, columns = (
        windows.padded_size(side, self.window) // self.window
        for side in (height, width)
      )
      elements = self.window**2 * channels
      count = _chunk_count(len(x) * rows * columns, elements)
    if count > 1:
      return join(self._chunk_by_chunk(cut(x), regions, count))
    return self._computation(cut, join)(self, x, regions)

  def _chunk_by_chunk(self, x, regions, count):
    """(N, tokens, C) > likewise, `count` equal parts of it in a loop."""
    if regions is not None:
      regions = jnp.tile(regions, (x.shape[0] // regions.shape[0], 1))
    chunks = jax.tree.map(
      lambda a: a.reshape(count, -1, *a.shape[1:]), (x, regions)
    )
    compute = self._computation(lambda x: x, lambda x: x)
    scan = nn.scan(
      lambda block, _, chunk: (None, compute(block, *chunk)),
      variable_broadcast="params",
      split_rngs={"params": False},
    )
    _, chunks = scan(self, None, chunks)
    return chunks.reshape(x.shape)

  def _computation(self, cut, join):
    """All that a block computes, of a map or, where it is cut, of windows.

    A function of the module, as Flax wants them lifted: (block, x, regions) to
    what becomes of x. `cut` makes windows of it for attention, `join` undoes it.
    """

    def compute(block, x, regions):
      x, normal = block._norm("norm1", x)
      fused = block._has_attention_kernel(normal.shape)
      branch, bias = block._attend(cut(normal), regions, fused)
      x, normal = block._norm("norm2", layers.Sum(x, join(branch), bias))
      x = layers.Sum(x, *block._mix(normal))
      # With `remat` a block's input is kept: one map, not two.
      return x if fused and not block.execution.remat else x.added()

    return nn.remat(compute) if self.execution.remat else compute

  def _norm(self, name, x):
    return layers.LayerNorm(self.dtype, self.execution.kernels, name=name)(x)

  def _has_attention_kernel(self, shape):
    """Whether there is one for maps of this shape."""
    kernels = self.execution.kernels
    return bool(
      kernels
      and kernels.share(shape[0])
      and fused_attention.usable(
        window=self.window,
        head_width=shape[-1] // self.num_heads,
        dtype=self.dtype,
      )
    )

  def _attend(self, x, regions, fused):
    """Windows (N, tokens, C), or a map if it is fused > likewise, and bias."""

    def attend(qkv, qkv_bias, position_bias):
      return attention.window_attention(
        qkv + qkv_bias.astype(qkv.dtype),
        position_bias,
        regions,
        num_heads=self.num_heads,
      )

    if fused:
      attend = functools.partial(
        fused_attention.window_attention,
        regions=regions,
        window=self.window,
        shift=self.shift,
        num_heads=self.num_heads,
        devices=self.execution.kernels,
      )
    return WindowAttention(
      self.num_heads,
      self.window,
      self.dtype,
      self.execution.factor_dtype,
      name="attention",
    )(x, attend)

  def _mix(self, x):
    """The MLP: (..., C) > (..., C), and a bias (C,) yet to be added."""
    channels = x.shape[-1]
    width = self.mlp_ratio * channels
    kernel_in, bias_in = layers.DenseParameters(width, name="mlp_in")(channels)
    kernel_out, bias_out = layers.DenseParameters(channels, name="mlp_out")(
      width
    )
    kernels = self.execution.kernels
    share = kernels.share(len(x)) if kernels else 0
    if share and fused_mlp.usable(
      tokens=share * math.prod(x.shape[1:-1]),
      channels=channels,
      hidden=width,
      dtype=self.dtype,
    ):
      out = fused_mlp.mlp(x, kernel_in, bias_in, kernel_out, devices=kernels)
      return out, bias_out
    factor_dtype = self.execution.factor_dtype
    hidden = linear.product(x, kernel_in, None, factor_dtype)
    hidden += bias_in.astype(hidden.dtype)
    active = gelu.gelu(hidden)
    return linear.product(active, kernel_out, None, factor_dtype), bias_out


class SwinBlocks(nn.Module):
  """`depth` blocks of one width; every second one with shifted windows."""

  depth: int
  num_heads: int
  window: int
  mlp_ratio: int = 4
  dtype: Any = jnp.float32
  execution: Execution = Execution()

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """(B, H, W, C) > (B, H, W, C)."""
    for i in range(self.depth):
      x = SwinBlock(
        self.num_heads,
        self.window,
        shift=self.window // 2 if i % 2 else 0,
        mlp_ratio=self.mlp_ratio,
        dtype=self.dtype,
        execution=self.execution,
        name=f"block_{i}",
      )(x, valid)
    return layers.added(x)


# Numbers of a chunk's input, 1.5 MB: its hidden layer of four times the width,
# queries, keys, values and weights then share some 16 MB of cache.
_CHUNK_ELEMENTS = 48 * 64 * 128


def _chunk_count(count: int, elements: int) -> int:
  """Into how many equal chunks to cut `count` windows of `elements` numbers.

  The divisor of `count` whose chunks come nearest to what the cache holds; 1 if
  none is within a factor of 2.
  """
  wanted = count * elements / _CHUNK_ELEMENTS
  best = min(
    (n for n in range(1, count + 1) if count % n == 0),
    key=lambda n: abs(math.log(n / wanted)),
  )
  return best if 0.5 <= best / wanted <= 2 else 1
