"""3x3 convolutions of small maps, as GPUs are fast at them.

The slice networks convolve some thousand elements sixty times, each time waiting
for the last. cuDNN's convolutions are made for larger maps: they cannot be part
of a CUDA graph, and starting them and ordering their factors takes longer than
the work. As a product of matrices and a sum of nine shifted maps they take a
fraction of that.
"""

import jax
import jax.numpy as jnp

_SIDE = 3
_MIDDLE = _SIDE // 2


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution (no flip) with stride 1 and zeros around.

  Args:
    x: (B, H, W, C).
    kernel: (3, 3, C, features), of x's type.

  Returns:
    (B, H, W, features).
  """
  return jax.lax.platform_dependent(x, kernel, cuda=_by_product, default=_plain)


def _forward(x, kernel):
  return conv3x3(x, kernel), (x, kernel)


def _backward(residuals, gradient):
  return jax.lax.platform_dependent(
    *residuals, gradient, cuda=_backward_by_product, default=_backward_plain
  )


conv3x3.defvjp(_forward, _backward)


def _plain(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _backward_plain(x, kernel, gradient):
  (of_x,) = jax.linear_transpose(lambda x: _plain(x, kernel), x)(gradient)
  (of_kernel,) = jax.linear_transpose(lambda k: _plain(x, k), kernel)(gradient)
  return of_x, of_kernel


def _by_product(x, kernel):
  """Every element times all of the kernel, then what falls on each place."""
  products = x @ _matrix(kernel)
  products = products.reshape(*x.shape[:3], _SIDE, _SIDE, -1)
  return sum(
    _shifted(products[:, :, :, i, j], i - _MIDDLE, j - _MIDDLE)
    for i in range(_SIDE)
    for j in range(_SIDE)
  )


def _backward_by_product(x, kernel, gradient):
  *_, channels, features = kernel.shape
  around = jnp.concatenate(
    [
      _shifted(gradient, _MIDDLE - i, _MIDDLE - j)
      for i in range(_SIDE)
      for j in range(_SIDE)
    ],
    axis=-1,
  )
  of_x = around @ _matrix(kernel).T
  of_matrix = x.reshape(-1, channels).T @ around.reshape(-1, around.shape[-1])
  of_kernel = of_matrix.reshape(channels, _SIDE, _SIDE, features)
  return of_x, of_kernel.transpose(1, 2, 0, 3)


def _matrix(kernel):
  """(3, 3, C, features) > (C, 9 * features)."""
  return kernel.transpose(2, 0, 1, 3).reshape(kernel.shape[2], -1)


def _shifted(x, rows, columns):
  """At (h, w) what was at (h + rows, w + columns); zeros from outside."""
  _, height, width, _ = x.shape
  around = ((max(-rows, 0), max(rows, 0)), (max(-columns, 0), max(columns, 0)))
  x = jnp.pad(x, ((0, 0), *around, (0, 0)))
  top, left = max(rows, 0), max(columns, 0)
  return x[:, top : top + height, left : left + width]
