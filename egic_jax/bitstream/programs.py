"""The compiled programs that encoder and decoder step through.

Parameters are arguments, so that no program holds a copy of them and models of
one size share them all. Products are taken in full float32: accelerators would
use bfloat16 or TF32 unless told otherwise.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from egic_jax.models import codec, orp, presets


class Programs(NamedTuple):
  """Jitted functions; `params` are those of the codec, images (1, H, W, 3).

  Attributes:
    analysis: (params, uint8 image) > y, z.
    hyper_synthesis: (params, z_hat) > latent means, latent scales.
    slice_parameters: (slice, params, latent means, latent scales, support) >
      mean, scale index.
    synthesis: (params, y_hat) > uint8 image.
    synthesis_orp: (params, ORP params, y_hat, alpha) > uint8 image.
    bits: (params, uint8 image) > estimated y_bits (1, slices), z_bits (1,).
  """

  analysis: Callable
  hyper_synthesis: Callable
  slice_parameters: Callable
  synthesis: Callable
  synthesis_orp: Callable
  bits: Callable


@functools.lru_cache(maxsize=8)
def programs(config: presets.CodecConfig) -> Programs:
  """The programs of a size, shared by all models of it."""
  model = codec.Codec(config)

  def apply(params, *args, method):
    return model.apply({"params": params}, *args, method=method)

  def program(function, **options):
    @functools.wraps(function)
    def precise(*args):
      with jax.default_matmul_precision("highest"):
        return function(*args)

    return jax.jit(precise, **options)

  def to_float(image):
    return image.astype(jnp.float32) / 255

  def to_uint8(image):
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)

  def analysis(params, image):
    y = apply(params, to_float(image), method="analysis")
    return y, apply(params, y, method="hyper_analysis")

  def hyper_synthesis(params, z_hat):
    return apply(params, z_hat, method="hyper_synthesis")

  def slice_parameters(i, params, latent_means, latent_scales, support):
    return apply(
      params, i, latent_means, latent_scales, support, method="slice_parameters"
    )

  def synthesis(params, y_hat):
    return to_uint8(apply(params, y_hat, method="synthesis"))

  def synthesis_orp(params, orp_params, y_hat, alpha):
    features = apply(params, y_hat, method="synthesis_features")
    x_gan = apply(params, features, method="synthesis_last_stage")
    x_mse = orp.OrpHead(config).apply({"params": orp_params}, features)
    return to_uint8(orp.interpolate(x_gan, x_mse, alpha))

  def bits(params, image):
    output = apply(params, to_float(image), method="__call__")
    return output.y_bits, output.z_bits

  return Programs(
    analysis=program(analysis),
    hyper_synthesis=program(hyper_synthesis),
    slice_parameters=program(slice_parameters, static_argnums=0),
    synthesis=program(synthesis),
    synthesis_orp=program(synthesis_orp),
    bits=program(bits),
  )
