"""Channel-wise autoregressive entropy model; its loop is `slice_loop`'s.

Minnen, Singh, Channel-wise Autoregressive Entropy Models, ICIP 2020, section 3,
without latent residual prediction. y is coded in slices of channels; the mean
and scale of a slice come from its share of the hyper-synthesis output and from
the slices decoded before.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.entropy import gaussian
from egic_jax.models import presets
from egic_jax.ops import convolution, extents, quantization


def hidden_widths(slice_index: int, slice_channels: int, max_support: int):
  """Widths of the two hidden convolutions of a slice's networks.

  For 32 channels a slice: (64, 32) (64, 32) (85, 42) (106, 53) ...
  """
  seen = max(1, min(slice_index, max_support)) + 2
  return 2 * slice_channels * seen // 3, slice_channels * seen // 3


class SliceNetwork(nn.Module):
  """3x3 conv, ReLU, 3x3 conv, ReLU, 3x3 conv, zero padding.

  Always float32: its outputs decide symbols and tables.
  """

  widths: Sequence[int]

  @nn.compact
  def __call__(
    self, x: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    for i, width in enumerate(self.widths):
      last = i == len(self.widths) - 1
      x = Conv3x3(width, name=f"conv_{i}")(extents.zero_outside(x, valid))
      x = x if last else jax.nn.relu(x)
    return x


class Conv3x3(nn.Module):
  """`convolution.conv3x3` and a bias; parameters of nn.Conv."""

  features: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """(B, h, w, C) > (B, h, w, features), float32."""
    kernel = self.param(
      "kernel",
      nn.initializers.lecun_normal(),
      (3, 3, x.shape[-1], self.features),
    )
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return convolution.conv3x3(x, kernel) + bias


class Charm(nn.Module):
  """Mean and scale networks of every slice."""

  config: presets.CodecConfig

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
    mean = self.means[i](
      jnp.concatenate([latent_means[..., own], *support], axis=-1), valid
    )
    index = self.scales[i](
      jnp.concatenate([latent_scales[..., own], *support], axis=-1), valid
    )
    index = quantization.clip_inward(index, 0.0, gaussian.NUM_SCALES - 1.0)
    return mean, index
