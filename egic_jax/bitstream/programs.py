"""The compiled programs that encoder and decoder step through.

Parameters are arguments, so that no program holds a copy of them and models of
one size share them all. Products are taken in full float32: accelerators would
use bfloat16 or TF32 unless told otherwise. Analysis and synthesis may be told so:
no decoder depends on what the one was rounded to, and no symbol on the other.

Maps come in the sizes of `buckets`, the picture in the upper left corner, and
`valid` tells its extent: (height, width), int32 scalars in elements of z (64
pixels). What lies outside is masked, always: at an exact fit masking changes
nothing, and costs less than can be measured.
"""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from egic_jax import stored_program
from egic_jax.models import presets
from egic_jax.ops import extents

_PRECISIONS = ("float32", "bfloat16")
_AUTO = "auto"


class Programs(NamedTuple):
  """Jitted functions; `params` are those of the codec, images (B, H, W, 3).

  Attributes:
    analysis: (params, uint8 image, valid) > y.
    hyper_analysis: (params, y, valid) > z.
    hyper_synthesis: (params, z_hat, valid) > latent means, latent scales.
    slice_parameters: (slice, params, latent means, latent scales, support,
      valid) > mean, scale index.
    synthesis: (params, y_hat, valid) > uint8 image.
    synthesis_orp: (params, ORP params, y_hat, alpha, valid) > uint8 image.
    bits: (params, y, z, valid, rows and columns of y that are coded) >
      estimated y_bits (B, slices), z_bits (B,).
    gains: (params, quality) > gain, inverse gain of the channels of y, each
      (C,); of models with levels of quality only.
  """

  analysis: Callable
  hyper_analysis: Callable
  hyper_synthesis: Callable
  slice_parameters: Callable
  synthesis: Callable
  synthesis_orp: Callable
  bits: Callable
  gains: Callable


def resolve_precision(precision: str) -> str:
  """Which type "auto" stands for here: what is fastest and hardly ever seen.

  "float32" on a CPU, where "bfloat16" pays only with instructions for it and a
  large model. Elsewhere "bfloat16": it is what matrix units take, a full
  float32 product is several passes of them. Kodak, shipped model: 0.003 dB at
  0.05 % fewer bytes.

  Raises:
    ValueError: if it is no precision.
  """
  if precision == _AUTO:
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
  if precision not in _PRECISIONS:
    raise ValueError(
      f"precision is {precision!r}; it must be one of"
      f" {', '.join((_AUTO, *_PRECISIONS))}"
    )
  return precision


@functools.lru_cache(maxsize=8)
def programs(
  config: presets.CodecConfig, precision: str = "float32"
) -> Programs:
  """The programs of a size, shared by all models of it.

  Args:
    config: the size.
    precision: type that analysis and synthesis compute in, "float32" or
      "bfloat16".
  """
  if precision != "float32":
    _try_kernels("attention", "mlp")
    synthesis, synthesis_orp = _synthesis_programs(config, precision)
    return programs(config)._replace(
      analysis=_analysis_program(config, precision),
      synthesis=synthesis,
      synthesis_orp=synthesis_orp,
    )
  _try_kernels()
  # Elements of y per element of z, along a side.
  latents = config.hyper_stride // config.latent_stride

  def apply(params, *args, method, **extents_of_args):
    return _codec(config).apply(
      {"params": params}, *args, **extents_of_args, method=method
    )

  def hyper_analysis(params, y, valid):
    valid = extents.scaled(valid, latents)
    return apply(params, y, method="hyper_analysis", valid=valid)

  def hyper_synthesis(params, z_hat, valid):
    return apply(params, z_hat, method="hyper_synthesis", valid=valid)

  def slice_parameters(i, params, latent_means, latent_scales, support, valid):
    return apply(
      params,
      i,
      latent_means,
      latent_scales,
      support,
      method="slice_parameters",
      valid=extents.scaled(valid, latents),
    )

  def bits(params, y, z, valid, coded):
    valid = extents.scaled(valid, latents)
    quantized = apply(params, y, z, method="quantize", valid=valid, coded=coded)
    return quantized.y_bits, quantized.z_bits

  def gains(params, quality):
    ones = jnp.ones((1, 1, 1, config.latent_channels))
    quality = jnp.reshape(quality, (1,))
    return tuple(
      apply(params, ones, quality, method=method).ravel()
      for method in ("scale_latent", "unscale_latent")
    )

  def program(function, *groups):
    return _program(function, str(config), _parameters_of(*groups))

  synthesis, synthesis_orp = _synthesis_programs(config, precision)
  return Programs(
    analysis=_analysis_program(config, precision),
    hyper_analysis=program(hyper_analysis, "hyper_analysis"),
    hyper_synthesis=program(hyper_synthesis, "hyper_synthesis"),
    slice_parameters=_program(
      slice_parameters, str(config), _parameters_of_slice, static_argnums=(0,)
    ),
    synthesis=synthesis,
    synthesis_orp=synthesis_orp,
    bits=program(bits, "hyper_synthesis", "charm"),
    gains=program(gains, "rate"),
  )


def _try_kernels(*kinds):
  """Before anything is traced: those of float32 here, and these."""
  if jax.default_backend() != "gpu":
    return
  from egic_jax.ops import kernel_trial

  for line in kernel_trial.leave_out_failing(("layer_norm", *kinds)):
    warnings.warn(line, RuntimeWarning, stacklevel=3)


def _analysis_program(config, precision):
  def analysis(params, image, valid):
    return _codec(config, precision).apply(
      {"params": params},
      image.astype(jnp.float32) / 255,
      valid=extents.scaled(valid, config.hyper_stride),
      method="analysis",
    )

  return _program(analysis, _key(config, precision), _parameters_of("analysis"))


def _key(config, precision):
  return str(config) if precision == "float32" else f"{precision} {config}"


def _synthesis_programs(config, precision):
  pixels = config.hyper_stride
  latents = config.hyper_stride // config.latent_stride

  def to_uint8(image):
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)

  def synthesis(params, y_hat, valid):
    valid = extents.scaled(valid, latents)
    image = _codec(config, precision).apply(
      {"params": params}, y_hat, valid=valid, method="synthesis"
    )
    return to_uint8(image)

  def synthesis_orp(params, orp_params, y_hat, alpha, valid):
    from egic_jax.models import orp

    codec, params = _codec(config, precision), {"params": params}
    features = codec.apply(
      params,
      y_hat,
      method="synthesis_features",
      valid=extents.scaled(valid, latents),
    )
    valid = extents.scaled(valid, pixels // 2)
    x_gan = codec.apply(
      params, features, method="synthesis_last_stage", valid=valid
    )
    head = orp.OrpHead(config, codec.dtype, codec.execution)
    x_mse = head.apply({"params": orp_params}, features, valid)
    return to_uint8(orp.interpolate(x_gan, x_mse, alpha))

  key = _key(config, precision)
  of_synthesis = _parameters_of("synthesis")
  return (
    _program(synthesis, key, of_synthesis),
    _program(synthesis_orp, key, of_synthesis),
  )


def _parameters_of(*groups):
  """Of the arguments (params, ...) those with only these groups of params."""

  def select(params, *args):
    return {name: params[name] for name in ("prior", *groups)}, *args

  return select


def _parameters_of_slice(i, params, *args):
  names = (f"mean_{i}", f"scale_{i}")
  networks = {name: params["charm"][name] for name in names}
  return i, {"prior": params["prior"], "charm": networks}, *args


def _codec(config, precision="float32"):
  """The network, computed as this machine does it best."""
  # Where programs are found on disk, Flax is not even imported.
  from egic_jax.models import codec, swin

  platform, dtype = jax.default_backend(), jnp.dtype(precision)
  return codec.Codec(
    config,
    swin.activation_dtype(platform, dtype),
    swin.Execution.of_inference(platform, dtype),
  )


def _program(function, key, select, **options):
  @functools.wraps(function)
  def precise(*args):
    with jax.default_matmul_precision("highest"):
      return function(*args)

  return stored_program.StoredProgram(
    jax.jit(precise, **options),
    f"{function.__name__} {key}",
    select=select,
    **options,
  )
