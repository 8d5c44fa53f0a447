"""The four transforms: image to y, y to z, and back.

SwinT-ChARM (Zhu, Yang, Cohen, ICLR 2022): downwards a 2x2 stride-2 convolution,
then stages of Swin blocks with a PatchMerging between two; upwards stages of
Swin blocks, each ending in a PatchSplitting, the last in a PatchUnpack. `valid`
is the extent of a transform's input that counts (`ops.extents`), in its
elements; `execution` is how blocks are evaluated (`swin.Execution`).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.models import layers, presets, resolution, swin
from egic_jax.ops import convolution, extents


class Downward(nn.Module):
  """Halves the sides `len(widths)` times: (B, H, W, C) > (B, h, w, widths[-1]).

  Serves as analysis transform g_a (four stages) and hyper-analysis h_a (two).
  """

  widths: Sequence[int]
  depths: Sequence[int]
  window: int
  head_width: int
  mlp_ratio: int
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    embedding = layers.ConvParameters(
      2, self.widths[0], name="patch_embedding"
    )(x.shape[-1])
    x, kernel, bias = (a.astype(self.dtype) for a in (x, *embedding))
    x = convolution.conv_patches(x, kernel) + bias
    valid = extents.halved(valid)
    for i, (width, depth) in enumerate(
      zip(self.widths, self.depths, strict=True)
    ):
      if i:
        x = resolution.PatchMerging(
          width, self.dtype, self.execution.kernels, name=f"merging_{i - 1}"
        )(x)
        valid = extents.halved(valid)
      x = swin.SwinBlocks(
        depth,
        width // self.head_width,
        self.window,
        self.mlp_ratio,
        self.dtype,
        self.execution,
        name=f"stage_{i}",
      )(x, valid)
    return x.astype(jnp.float32)


class UpwardStage(nn.Module):
  """Swin blocks, then twice the resolution: (B, H, W, C) > (B, 2H, 2W, out).

  The last stage of a transform unpacks to the output's channels instead of
  splitting to the next width. The ORP head is such a last stage.
  """

  width: int
  depth: int
  out: int
  last: bool
  window: int
  head_width: int
  mlp_ratio: int
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    x = swin.SwinBlocks(
      self.depth,
      self.width // self.head_width,
      self.window,
      self.mlp_ratio,
      self.dtype,
      self.execution,
      name="blocks",
    )(x.astype(self.dtype), valid)
    if self.last:
      return resolution.PatchUnpack(self.out, self.dtype, name="unpack")(x)
    return resolution.PatchSplitting(
      self.out, self.dtype, self.execution.kernels, name="splitting"
    )(x)


class Upward(nn.Module):
  """Doubles the sides `len(widths)` times: synthesis g_s, hyper-synthesis h_s.

  Attributes:
    widths: width of each stage, first to last.
    depths: blocks of each stage.
    out: channels of the output.
  """

  widths: Sequence[int]
  depths: Sequence[int]
  out: int
  window: int
  head_width: int
  mlp_ratio: int
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  def setup(self):
    outs = (*self.widths[1:], self.out)
    self.stages = [
      UpwardStage(
        width=width,
        depth=depth,
        out=out,
        last=i == len(self.widths) - 1,
        window=self.window,
        head_width=self.head_width,
        mlp_ratio=self.mlp_ratio,
        dtype=self.dtype,
        execution=self.execution,
        name=f"stage_{i}",
      )
      for i, (width, depth, out) in enumerate(
        zip(self.widths, self.depths, outs, strict=True)
      )
    ]

  def features(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """What the last stage is fed with: half the output's resolution."""
    for i, stage in enumerate(self.stages[:-1]):
      x = stage(x, extents.scaled(valid, 2**i))
    return x

  def last_stage(
    self, features: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """The last stage alone: features > output, float32.

    `valid` counts elements of the features.
    """
    return self.stages[-1](features, valid)

  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    features = self.features(x, valid)
    growth = 2 ** (len(self.widths) - 1)
    return self.last_stage(features, extents.scaled(valid, growth))


def _image_blocks(config: presets.CodecConfig) -> dict[str, int]:
  """How the blocks of g_a, g_s and the ORP head are made."""
  return {
    "window": config.analysis_window,
    "head_width": config.head_width,
    "mlp_ratio": config.mlp_ratio,
  }


def _hyper_blocks(config: presets.CodecConfig) -> dict[str, int]:
  """How the blocks of h_a and h_s are made."""
  return _image_blocks(config) | {"window": config.hyper_window}


def analysis(
  config: presets.CodecConfig,
  dtype: Any,
  name: str,
  execution: swin.Execution,
) -> Downward:
  """g_a: image (B, H, W, 3) in [0, 1] > y (B, H/16, W/16, C)."""
  return Downward(
    config.analysis_widths,
    config.analysis_depths,
    **_image_blocks(config),
    dtype=dtype,
    execution=execution,
    name=name,
  )


def synthesis(
  config: presets.CodecConfig,
  dtype: Any,
  name: str,
  execution: swin.Execution,
) -> Upward:
  """g_s: y_hat (B, H/16, W/16, C) > x_hat (B, H, W, 3), about [0, 1]."""
  return Upward(
    config.analysis_widths[::-1],
    config.analysis_depths[::-1],
    out=3,
    **_image_blocks(config),
    dtype=dtype,
    execution=execution,
    name=name,
  )


def hyper_analysis(
  config: presets.CodecConfig,
  dtype: Any,
  name: str,
  execution: swin.Execution,
) -> Downward:
  """h_a: y (B, H/16, W/16, C) > z (B, H/64, W/64, hyper_width)."""
  return Downward(
    (config.hyper_width,) * 2,
    config.hyper_depths,
    **_hyper_blocks(config),
    dtype=dtype,
    execution=execution,
    name=name,
  )


def hyper_synthesis(
  config: presets.CodecConfig,
  dtype: Any,
  name: str,
  execution: swin.Execution,
) -> Upward:
  """h_s: z_hat > latent means and scales side by side, (B, H/16, W/16, 2C)."""
  return Upward(
    (config.hyper_width,) * 2,
    config.hyper_depths[::-1],
    out=2 * config.latent_channels,
    **_hyper_blocks(config),
    dtype=dtype,
    execution=execution,
    name=name,
  )


def synthesis_last_stage(
  config: presets.CodecConfig,
  dtype: Any,
  name: str,
  execution: swin.Execution,
) -> UpwardStage:
  """The last stage of g_s as a module of its own: the ORP head."""
  return UpwardStage(
    width=config.analysis_widths[0],
    depth=config.analysis_depths[0],
    out=3,
    last=True,
    **_image_blocks(config),
    dtype=dtype,
    execution=execution,
    name=name,
  )
