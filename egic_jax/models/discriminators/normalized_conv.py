"""A convolution whose kernel is weight- or spectrally normalised, or neither."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.ops import convolution, spectral_norm, weight_norm

# The collection of spectral norm's singular vectors: state, not parameters.
SPECTRAL = "spectral"


class NormalizedConv(nn.Module):
  """(B, H, W, C) > (B, H, W, features), stride 1, zero padding, with bias.

  Attributes:
    features: output channels.
    size: side of the kernel.
    normalization: "weight" (parameters kernel, its direction, and scale, its
      length), "spectral" (the collection `SPECTRAL` holds `u`, which moves on
      whenever that collection is mutable) or "none".
    calibrating: weight norm only: set scale and bias from the data at hand
      before use; "params" must be mutable.
    dtype: type that products are computed in.
    function: of a map and the normalised kernel: which convolution.
  """

  features: int
  size: int
  normalization: str
  calibrating: bool = False
  dtype: Any = jnp.float32
  function: Callable[[jax.Array, jax.Array], jax.Array] = convolution.plain

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = x.astype(self.dtype)
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (self.size, self.size, x.shape[-1], self.features),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    if self.normalization == "weight":
      scale = self.param("scale", nn.initializers.ones, (self.features,))
      kernel = weight_norm.direction(kernel)
      if self.calibrating:
        scale, bias = weight_norm.scale_and_bias(self.function(x, kernel))
        self.put_variable("params", "scale", scale)
        self.put_variable("params", "bias", bias)
      kernel = scale * kernel
    elif self.normalization == "spectral":
      u = self.variable(SPECTRAL, "u", jnp.ones, (self.features,))
      sigma, next_u = spectral_norm.power_iteration(kernel, u.value)
      if self.is_mutable_collection(SPECTRAL) and not self.is_initializing():
        u.value = next_u
      kernel = kernel / sigma
    return self.function(x, kernel) + bias.astype(self.dtype)
