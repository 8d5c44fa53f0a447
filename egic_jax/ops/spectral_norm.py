"""Spectral normalisation of convolution kernels.

Miyato et al., Spectral Normalization for GANs, ICLR 2018: kernel / sigma, with
sigma the largest singular value of the kernel as a matrix (inputs x output
channels), followed by one power iteration per training step. The estimate of
the singular vector is state, handed in and out.
"""

import functools

import jax
import jax.numpy as jnp

_EPSILON = 1e-12


def _normalise(x: jax.Array) -> jax.Array:
  return x / (jnp.linalg.norm(x) + _EPSILON)


def power_iteration(
  kernel: jax.Array, u: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One power iteration: sigma of a kernel and a better singular vector.

  Gradients pass to the kernel through sigma, the vectors being constants
  (equation 11 of the paper).

  Args:
    kernel: (..., out).
    u: (out,), the estimate of the singular vector so far, any length but zero.

  Returns:
    (sigma, u): a scalar that approaches the largest singular value from below,
    and the next estimate, (out,) of length 1.
  """
  matrix = kernel.reshape(-1, kernel.shape[-1])
  constant = jax.lax.stop_gradient(matrix)
  # Two products with a vector: full precision costs nothing.
  dot = functools.partial(jnp.matmul, precision="highest")
  v = _normalise(dot(constant, jax.lax.stop_gradient(u)))
  u = _normalise(dot(v, constant))
  return jnp.sum(dot(v, matrix) * u), u
