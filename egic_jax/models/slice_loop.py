"""The one loop over the slices of y; it needs no Flax.

Minnen, Singh, Channel-wise Autoregressive Entropy Models, ICIP 2020, section 3:
y is coded in slices of channels, each under a mean and a scale that come from
hyper-synthesis and from the slices decoded before.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# (slice index, latent means, latent scales, decoded slices) to the slice's
# mean and real-valued scale index.
SliceParameters = Callable[
  [int, jax.Array, jax.Array, tuple[jax.Array, ...]],
  tuple[jax.Array, jax.Array],
]
# (slice index, mean, scale index) to y_hat of the slice.
Visit = Callable[[int, jax.Array, jax.Array], jax.Array]


def visit_slices(
  slice_parameters: SliceParameters,
  visit: Visit,
  latent_means: jax.Array,
  latent_scales: jax.Array,
  num_slices: int,
) -> jax.Array:
  """Walks the slices in coding order; training, encoder and decoder share it.

  Args:
    slice_parameters: gives mean and scale index of a slice.
    visit: what happens to a slice: rounding and counting bits in training,
      writing symbols when encoding, reading them when decoding. Returns y_hat
      of the slice.
    latent_means, latent_scales: (B, h, w, C), from hyper-synthesis.
    num_slices: number of slices.

  Returns:
    y_hat: (B, h, w, C).
  """
  support: tuple[jax.Array, ...] = ()
  for i in range(num_slices):
    mean, scale_index = slice_parameters(
      i, latent_means, latent_scales, support
    )
    support = (*support, visit(i, mean, scale_index))
  # On the host as arrays of the host: jax would have to compile for it.
  on_host = all(isinstance(part, np.ndarray) for part in support)
  return (np if on_host else jnp).concatenate(support, axis=-1)
