"""The codec: transforms, hyperprior and channel-autoregressive entropy model.

`Codec` binds the parts; each is a method of its own, so that training traces
all of them into one program and the bitstream steps through them one by one.

Where a method takes `valid`, this is the extent that counts (`ops.extents`), in
elements of the method's first array; None for all of it.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.entropy import factorized, gaussian
from egic_jax.models import (
  charm,
  initialization,
  presets,
  rate_gains,
  slice_loop,
  swin,
  transforms,
)
from egic_jax.ops import extents, quantization


class CodecOutput(NamedTuple):
  """What one pass of the codec yields.

  Attributes:
    x_hat: (B, H, W, 3) reconstruction, about [0, 1], not clipped.
    y_bits: (B, num_slices) estimated bits of each slice of y.
    z_bits: (B,) estimated bits of z.
    y, z: latents as they are coded, before rounding, (B, H/16, W/16, C) and
      (B, H/64, W/64, Cz).
    y_hat, z_hat: latents after rounding; y_hat as synthesis takes it.
    mean, scale_index: parameters of y as it is coded, (B, H/16, W/16, C).
  """

  x_hat: jax.Array
  y_bits: jax.Array
  z_bits: jax.Array
  y: jax.Array
  z: jax.Array
  y_hat: jax.Array
  z_hat: jax.Array
  mean: jax.Array
  scale_index: jax.Array


class Quantized(NamedTuple):
  """Latents rounded and counted; fields as in `CodecOutput`."""

  y_bits: jax.Array
  z_bits: jax.Array
  y_hat: jax.Array
  z_hat: jax.Array
  mean: jax.Array
  scale_index: jax.Array


class Codec(nn.Module):
  """SwinT-ChARM.

  Attributes:
    config: the size.
    dtype: type in which the transforms compute. The entropy model (h_s, slice
      networks, densities) is float32 regardless: it decides symbols. Only a
      training may have `execution.entropy_dtype`: of h_s, and of what slice
      networks multiply.
    execution: how Swin blocks and slice networks are evaluated, for speed or for
      memory.
  """

  config: presets.CodecConfig
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  def setup(self):
    config, execution = self.config, self.execution
    self._analysis = transforms.analysis(
      config, self.dtype, "analysis", execution
    )
    self._synthesis = transforms.synthesis(
      config, self.dtype, "synthesis", execution
    )
    self._hyper_analysis = transforms.hyper_analysis(
      config, self.dtype, "hyper_analysis", execution
    )
    self._hyper_synthesis = transforms.hyper_synthesis(
      config,
      execution.entropy_dtype or jnp.float32,
      "hyper_synthesis",
      dataclasses.replace(execution, factor_dtype=None),
    )
    self._charm = charm.Charm(config, execution.entropy_dtype, name="charm")
    shapes = factorized.param_shapes(config.hyper_width)
    self._prior = self.param(
      "prior", lambda _: {k: jnp.zeros(v) for k, v in shapes.items()}
    )
    if config.rate_levels:
      self._rate = rate_gains.RateGains(
        config.rate_levels, config.latent_channels, name="rate"
      )

  def analysis(
    self, image: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """g_a: image (B, H, W, 3) in [0, 1], sides multiples of 64 > y."""
    chex.assert_shape(image, (None, None, None, 3))
    height, width = image.shape[1:3]
    if height % self.config.hyper_stride or width % self.config.hyper_stride:
      raise ValueError(
        f"image is {height}x{width}; its sides must be multiples of"
        f" {self.config.hyper_stride}: pad it first"
      )
    return self._analysis(image, valid)

  def scale_latent(self, y: jax.Array, quality: jax.Array | None) -> jax.Array:
    """y of the analysis to y as it is coded, both (B, H/16, W/16, C).

    Args:
      y: what `analysis` gives.
      quality: (B,) float32 in [1, rate_levels]; None for a model of one rate,
        where this changes nothing.

    Raises:
      ValueError: a quality for a model of one rate, or none for another.
    """
    self._check_quality(quality)
    return y if quality is None else self._rate.scale(y, quality)

  def unscale_latent(
    self, y_hat: jax.Array, quality: jax.Array | None
  ) -> jax.Array:
    """Decoded y_hat to what synthesis takes; arguments as `scale_latent`."""
    self._check_quality(quality)
    return y_hat if quality is None else self._rate.unscale(y_hat, quality)

  def _check_quality(self, quality):
    if (quality is None) == bool(self.config.rate_levels):
      raise ValueError(
        f"quality is {quality} for a model with rate_levels"
        f" {self.config.rate_levels}; pass one for each image where there are"
        " levels, None where there are not"
      )

  def hyper_analysis(
    self, y: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """h_a: y (B, H/16, W/16, C) > z (B, H/64, W/64, Cz)."""
    return self._hyper_analysis(y, valid)

  def hyper_synthesis(
    self, z_hat: jax.Array, valid: extents.Extent | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """h_s: z_hat > latent means and latent scales, each (B, H/16, W/16, C)."""
    both = self._hyper_synthesis(z_hat, valid)
    means, scales = jnp.split(both, 2, axis=-1)
    return means, scales

  def slice_parameters(
    self, i, latent_means, latent_scales, support, valid=None
  ):
    """Mean and scale index of slice i; see `charm.Charm.slice_parameters`."""
    return self._charm.slice_parameters(
      i, latent_means, latent_scales, support, valid
    )

  def synthesis(
    self, y_hat: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """g_s: y_hat > x_hat (B, H, W, 3), about [0, 1], not clipped."""
    return self._synthesis(y_hat, valid)

  def synthesis_features(
    self, y_hat: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """Input of the last stage of g_s, (B, H/2, W/2, C): what ORP is fed."""
    return self._synthesis.features(y_hat, valid)

  def synthesis_last_stage(
    self, features: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """The last stage of g_s: features > x_hat."""
    return self._synthesis.last_stage(features, valid)

  def z_bits(
    self, z: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    """Estimated bits of rounded or noisy z: (B, h, w, Cz) > (B,)."""
    bits = factorized.bits(self._prior, z)
    return extents.zero_outside(bits, valid).sum((1, 2, 3))

  def __call__(
    self,
    image: jax.Array,
    key: jax.Array | None = None,
    quality: jax.Array | None = None,
  ) -> CodecOutput:
    """Image to reconstruction and estimated bits.

    Args:
      image: (B, H, W, 3) float32 in [0, 1], sides multiples of 64.
      key: random key. With one, rates are those of latents with uniform noise
        and gradients pass straight through rounding (training); without, of
        rounded latents (evaluation).
      quality: as in `scale_latent`.

    Returns:
      CodecOutput.
    """
    y = self.scale_latent(self.analysis(image), quality)
    z = self.hyper_analysis(y)
    quantized = self.quantize(y, z, key)
    y_hat = self.unscale_latent(quantized.y_hat, quality)
    quantized = quantized._replace(y_hat=y_hat)
    return CodecOutput(
      x_hat=self.synthesis(y_hat), y=y, z=z, **quantized._asdict()
    )

  def quantize(
    self,
    y: jax.Array,
    z: jax.Array,
    key: jax.Array | None = None,
    valid: extents.Extent | None = None,
    coded: extents.Extent | None = None,
  ) -> Quantized:
    """Rounds latents and counts their bits, `key` as in `__call__`.

    y (B, H/16, W/16, C), scaled, and z (B, H/64, W/64, Cz); y_hat is scaled
    too. Elements of y outside `coded` (by default, of `valid`) are their means and take no bits.
    """
    coded = valid if coded is None else coded
    valid_z = extents.halved(extents.halved(valid))
    if key is None:
      z_hat = jnp.round(z)
      z_bits = self.z_bits(z_hat, valid_z)
      y_noise = None
    else:
      y_key, z_key = jax.random.split(key)
      z_hat = quantization.round_straight_through(z)
      z_bits = self.z_bits(z + quantization.uniform_noise(z_key, z.shape))
      y_noise = quantization.uniform_noise(y_key, y.shape)

    size = self.config.slice_channels
    means, indices, y_bits = [], [], []

    def visit(i, mean, index):
      own = slice(i * size, (i + 1) * size)
      residual = y[..., own] - mean
      rounded = quantization.round_straight_through(residual)
      rounded = extents.zero_outside(rounded, coded)
      counted = rounded if y_noise is None else residual + y_noise[..., own]
      bits = extents.zero_outside(gaussian.bits(counted, index), coded)
      y_bits.append(bits.sum((1, 2, 3)))
      means.append(mean)
      indices.append(index)
      return rounded + mean

    latent_means, latent_scales = self.hyper_synthesis(z_hat, valid_z)
    y_hat = slice_loop.visit_slices(
      functools.partial(self.slice_parameters, valid=valid),
      visit,
      latent_means,
      latent_scales,
      self.config.num_slices,
    )
    return Quantized(
      y_bits=jnp.stack(y_bits, axis=-1),
      z_bits=z_bits,
      y_hat=y_hat,
      z_hat=z_hat,
      mean=jnp.concatenate(means, axis=-1),
      scale_index=jnp.concatenate(indices, axis=-1),
    )


@functools.cache
def param_shapes(config: presets.CodecConfig) -> dict[str, Any]:
  """Tree of jax.ShapeDtypeStruct of the codec's parameters."""
  image = jax.ShapeDtypeStruct(
    (1, config.hyper_stride, config.hyper_stride, 3), jnp.float32
  )
  quality = jnp.ones(1) if config.rate_levels else None
  return jax.eval_shape(
    Codec(config).init, jax.random.key(0), image, None, quality
  )["params"]


def init_codec_params(config: presets.CodecConfig, seed: int) -> dict[str, Any]:
  """Untrained parameters of the codec, float32 numpy arrays.

  {analysis, synthesis, hyper_analysis, hyper_synthesis, charm, prior}, and
  "rate" where there are levels; use these, not `Codec.init`, whose values are placeholders.
  """
  return initialization.draw(param_shapes(config), seed)
