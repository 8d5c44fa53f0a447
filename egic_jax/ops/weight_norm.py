"""Weight normalisation of convolution kernels.

Salimans & Kingma, Weight Normalization, NIPS 2016: kernel = g v / ||v||, one
length g for each output channel, and an initialisation from data that gives
every layer outputs of zero mean and unit variance on a first batch.
"""

import jax
import jax.numpy as jnp

# Smallest squared length: a direction of zeros stays zeros, without NaN.
_MIN_SQUARED_NORM = 1e-12
# Added to variances, so that an output that never varies gets a finite gain.
_VARIANCE_EPSILON = 1e-10


def direction(v: jax.Array) -> jax.Array:
  """v / ||v||, the norm taken over all axes but the last, output channels.

  Args:
    v: (..., out), any scale.

  Returns:
    The same shape; each output channel's weights have length 1.
  """
  squared = jnp.sum(jnp.square(v), axis=range(v.ndim - 1), keepdims=True)
  return v * jax.lax.rsqrt(jnp.maximum(squared, _MIN_SQUARED_NORM))


def scale_and_bias(outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Data-dependent g and bias of a layer (section 3 of the paper).

  Args:
    outputs: (..., out), what the layer yields for a batch with g = 1 and no
      bias.

  Returns:
    (g, bias), each (out,) float32: g * outputs + bias has zero mean and unit
    variance in each channel.
  """
  outputs = outputs.astype(jnp.float32)
  axes = range(outputs.ndim - 1)
  mean = jnp.mean(outputs, axis=axes)
  variance = jnp.mean(jnp.square(outputs - mean), axis=axes)
  scale = jax.lax.rsqrt(variance + _VARIANCE_EPSILON)
  return scale, -mean * scale
