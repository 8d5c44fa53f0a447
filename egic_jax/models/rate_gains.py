"""One codec for all rates: a gain for each channel of y, by quality.

Gained Variational Autoencoder (Cui et al., CVPR 2021): y is multiplied by a
gain before it is rounded and y_hat by another one afterwards, so that one set of
transforms codes with coarse steps or fine ones. Both are learned at a few levels
of quality; between levels their logarithms are interpolated, and so quality is
continuous. The entropy model sees scaled latents only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Of the gain of the highest level over that of the lowest, when untrained. Steps
# go with the inverse square root of the weight of the squared error, a little
# less at low rates: this is for weights that span a factor of 64.
_INITIAL_SPAN = 6.5


class RateGains(nn.Module):
  """Gains and inverse gains, log_gain and log_inverse_gain (levels, channels).

  Attributes:
    levels: levels of quality, 1 to `levels`; at least 2.
    channels: channels of y.
  """

  levels: int
  channels: int

  def setup(self):
    shape = (self.levels, self.channels)
    self._log_gain = self.param("log_gain", nn.initializers.zeros, shape)
    self._log_inverse = self.param(
      "log_inverse_gain", nn.initializers.zeros, shape
    )

  def scale(self, y: jax.Array, quality: jax.Array) -> jax.Array:
    """y (B, h, w, C) times the gain of each quality (B,), what is coded."""
    return y * jnp.exp(_interpolated(self._log_gain, quality))

  def unscale(self, y_hat: jax.Array, quality: jax.Array) -> jax.Array:
    """Decoded y_hat (B, h, w, C) to what synthesis takes."""
    return y_hat * jnp.exp(_interpolated(self._log_inverse, quality))


def draw(name: str, shape: tuple[int, int]) -> np.ndarray:
  """Untrained gains: steps of equal ratio from level to level.

  Args:
    name: "log_gain" or "log_inverse_gain".
    shape: (levels, channels).
  """
  span = np.log(_INITIAL_SPAN) / 2
  ladder = np.linspace(-span, span, shape[0])[:, None]
  sign = {"log_gain": 1.0, "log_inverse_gain": -1.0}[name]
  return np.broadcast_to(sign * ladder, shape)


def _interpolated(table: jax.Array, quality: jax.Array) -> jax.Array:
  """(levels, C) at qualities (B,) in [1, levels] > (B, 1, 1, C)."""
  levels = jnp.arange(1, table.shape[0] + 1, dtype=jnp.float32)
  share = jax.nn.relu(1.0 - jnp.abs(quality[:, None] - levels))
  # A sum, not a product of matrices: those may be rounded to bfloat16.
  return jnp.sum(share[:, :, None] * table, axis=1)[:, None, None, :]
