"""Channel-wise autoregressive entropy model; its loop is `slice_loop`'s.

Minnen, Singh, Channel-wise Autoregressive Entropy Models, ICIP 2020, section 3,
without latent residual prediction. y is coded in slices of channels; the mean
and scale of a slice come from its share of the hyper-synthesis output and from
the slices decoded before.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.entropy import gaussian
from egic_jax.models import layers as layers_lib
from egic_jax.models import presets
from egic_jax.ops import convolution, extents, quantization

# Kernel and bias.
Layer = tuple[jax.Array, jax.Array]

# GPUs are slow at products whose sides are no multiple of it.
_ALIGNED = 16


def hidden_widths(slice_index: int, slice_channels: int, max_support: int):
  """Widths of the two hidden convolutions of a slice's networks.

  For 32 channels a slice: (64, 32) (64, 32) (85, 42) (106, 53) ...
  """
  seen = max(1, min(slice_index, max_support)) + 2
  return 2 * slice_channels * seen // 3, slice_channels * seen // 3


class SliceNetwork(nn.Module):
  """The parameters of three 3x3 convolutions, those of nn.Conv."""

  widths: Sequence[int]

  @nn.compact
  def __call__(self, channels: int) -> list[Layer]:
    """Kernels (3, 3, C, features) and biases, for inputs of so many channels."""
    layers = []
    for i, width in enumerate(self.widths):
      layers.append(
        layers_lib.ConvParameters(3, width, name=f"conv_{i}")(channels)
      )
      channels = width
    return layers


def apply_network(
  layers: Sequence[Layer], x: jax.Array, valid: extents.Extent | None = None
) -> jax.Array:
  """3x3 conv, ReLU, 3x3 conv, ReLU, 3x3 conv, zero padding.

  Always float32: its outputs decide symbols and tables. (B, h, w, C) > (B, h, w,
  features of the last layer).
  """
  for i, (kernel, bias) in enumerate(layers):
    x = jax.nn.relu(x) if i else x
    x = convolution.conv3x3(extents.zero_outside(x, valid), kernel) + bias
  return x


def apply_networks(
  networks: Sequence[Sequence[Layer]],
  inputs: Sequence[jax.Array],
  factor_dtype: Any,
) -> list[jax.Array]:
  """`apply_network` of networks of equal widths, all at once, for training.

  Args:
    networks: layers of each.
    inputs: of each, (B, h, w, C).
    factor_dtype: type that factors of products are rounded to.

  Returns:
    (B, h, w, features of the last layer) of each, float32.
  """
  x = jnp.stack(inputs)
  for i, layers in enumerate(zip(*networks, strict=True)):
    kernel, bias = (jnp.stack(arrays) for arrays in zip(*layers, strict=True))
    more = (0, -kernel.shape[-1] % _ALIGNED)
    missing = (0, x.shape[-1] - kernel.shape[-2])
    kernel = jnp.pad(kernel, ((0, 0),) * 3 + (missing, more))
    bias = jnp.pad(bias, ((0, 0), more))
    x = jax.nn.relu(x) if i else x
    x = convolution.conv3x3_each(x, kernel, factor_dtype)
    x = convolution.add_bias_each(x, bias)
  features = len(networks[0][-1][1])
  return list(x[..., :features])


class Charm(nn.Module):
  """Mean and scale networks of every slice.

  Attributes:
    config: the size.
    factor_dtype: type that factors are rounded to in training, where both networks
      of a slice are evaluated at once. None: neither, as for coding.
  """

  config: presets.CodecConfig
  factor_dtype: Any = None

  def setup(self):
    config = self.config
    widths = [
      (
        *hidden_widths(i, config.slice_channels, config.max_support),
        config.slice_channels,
      )
      for i in range(config.num_slices)
    ]
    self.means = [
      SliceNetwork(w, name=f"mean_{i}") for i, w in enumerate(widths)
    ]
    self.scales = [
      SliceNetwork(w, name=f"scale_{i}") for i, w in enumerate(widths)
    ]

  def slice_parameters(
    self,
    i: int,
    latent_means: jax.Array,
    latent_scales: jax.Array,
    support: tuple[jax.Array, ...],
    valid: extents.Extent | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """Mean and scale index of slice i.

    Args:
      i: slice index.
      latent_means, latent_scales: (B, h, w, C).
      support: y_hat of the slices before i, each (B, h, w, C / num_slices).
      valid: the extent that counts, in elements of y; None for all of it.

    Returns:
      mean and real-valued scale index in [0, 63], (B, h, w, C / num_slices).
    """
    size = self.config.slice_channels
    own = slice(i * size, (i + 1) * size)
    support = support[: self.config.max_support]
    inputs = [
      jnp.concatenate([latents[..., own], *support], axis=-1)
      for latents in (latent_means, latent_scales)
    ]
    networks = [
      network(inputs[0].shape[-1])
      for network in (self.means[i], self.scales[i])
    ]
    if self.factor_dtype is not None and valid is None:
      mean, index = apply_networks(networks, inputs, self.factor_dtype)
    else:
      mean, index = (
        apply_network(layers, x, valid)
        for layers, x in zip(networks, inputs, strict=True)
      )
    index = quantization.clip_inward(index, 0.0, gaussian.NUM_SCALES - 1.0)
    return mean, index
