"""Convolutions as products of matrices, which GPUs are faster at.

cuDNN's cannot be part of a CUDA graph. The slice networks convolve some thousand
elements sixty times, each time waiting for the last: to start a convolution made
for larger maps and to order its factors takes longer than the work, and as a
product and a sum of nine shifted maps it takes a fraction of that. What embeds
patches is a product as it stands.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

_SIDE = 3
_MIDDLE = _SIDE // 2
# Of a gradient, that are added up first.
_ROWS_OF_SUM = 64


def plain(
  x: jax.Array,
  kernel: jax.Array,
  *,
  stride: int = 1,
  padding: str | int = "SAME",
) -> jax.Array:
  """Convolution (no flip), the compiler's own.

  Args:
    x: (B, H, W, C).
    kernel: (rows, columns, C, features); turned into x's type.
    stride: of rows and columns.
    padding: zeros around, on every side, or "SAME" or "VALID".

  Returns:
    (B, H', W', features), of x's type.
  """
  if isinstance(padding, int):
    padding = ((padding, padding),) * 2
  return jax.lax.conv_general_dilated(
    x,
    kernel.astype(x.dtype),
    (stride, stride),
    padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv3x3_each(
  x: jax.Array, kernel: jax.Array, factor_dtype: Any
) -> jax.Array:
  """N convolutions as `conv3x3`, of N maps by N kernels, at once.

  As few, large products: a map's neighbours are put side by side, which nothing
  is rounded for but factors.

  Args:
    x: (N, B, H, W, C).
    kernel: (N, 3, 3, C, features).
    factor_dtype: type that both are rounded to before they are multiplied; so is
      what gradients are made of.

  Returns:
    (N, B, H, W, features), of x's type.
  """
  return _product_of_columns(_columns(x, factor_dtype), kernel, x.dtype)


def _forward_each(x, kernel, factor_dtype):
  columns = _columns(x, factor_dtype)
  out = _product_of_columns(columns, kernel, x.dtype)
  return out, (columns, kernel)


def _backward_each(factor_dtype, residuals, gradient):
  columns, kernel = residuals
  mirrored = kernel[:, ::-1, ::-1].swapaxes(-1, -2)
  of_x = _product_of_columns(
    _columns(gradient, factor_dtype), mirrored, gradient.dtype
  )
  of_kernel = jax.lax.dot_general(
    columns.reshape(len(columns), -1, columns.shape[-1]),
    gradient.astype(factor_dtype).reshape(len(gradient), -1, kernel.shape[-1]),
    (((1,), (1,)), ((0,), (0,))),
    preferred_element_type=kernel.dtype,
  )
  return of_x, of_kernel.reshape(kernel.shape)


conv3x3_each.defvjp(_forward_each, _backward_each)


@jax.custom_vjp
def add_bias_each(x: jax.Array, bias: jax.Array) -> jax.Array:
  """(N, ..., features) + (N, features), of each of N maps."""
  return x + jnp.expand_dims(bias, range(1, x.ndim - 1))


def _forward_bias(x, bias):
  return add_bias_each(x, bias), bias


def _backward_bias(bias, gradient):
  rows = gradient.reshape(len(gradient), -1, gradient.shape[-1])
  # In two steps: of one, few processors would each add up thousands of rows.
  part = math.gcd(rows.shape[1], _ROWS_OF_SUM)
  sums = rows.reshape(len(rows), -1, part, rows.shape[-1]).sum(2)
  sums = jax.lax.optimization_barrier(sums).sum(1)
  return gradient, sums.astype(bias.dtype)


add_bias_each.defvjp(_forward_bias, _backward_bias)


def _columns(x, dtype):
  """(..., H, W, C) > (..., H, W, 9 * C) of `dtype`, each place's neighbours."""
  # Else XLA makes what x consists of anew for each of the nine, element by element:
  # four times as slow.
  x = jax.lax.optimization_barrier(x.astype(dtype))
  return jnp.concatenate(_neighbours(x), axis=-1)


def _neighbours(x):
  """Nine maps (..., H, W, C): what lies around each place, itself fifth, by row."""
  *_, height, width, _ = x.shape
  around = ((0, 0),) * (x.ndim - 3) + ((_MIDDLE, _MIDDLE),) * 2 + ((0, 0),)
  x = jnp.pad(x, around)
  return [
    x[..., i : i + height, j : j + width, :]
    for i in range(_SIDE)
    for j in range(_SIDE)
  ]


def _product_of_columns(columns, kernel, dtype):
  """(N, B, H, W, 9 * C) and (N, 3, 3, C, features) > (N, B, H, W, features)."""
  matrix = kernel.astype(columns.dtype).reshape(
    len(kernel), -1, kernel.shape[-1]
  )
  out = jax.lax.dot_general(
    columns.reshape(len(columns), -1, columns.shape[-1]),
    matrix,
    (((2,), (1,)), ((0,), (0,))),
    preferred_element_type=dtype,
  )
  return out.reshape(*columns.shape[:-1], -1)


@jax.custom_vjp
def conv_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution of patches side by side: of stride 2, without padding.

  Args:
    x: (B, H, W, C); an odd last row or column is left out.
    kernel: (2, 2, C, features), of x's type.

  Returns:
    (B, H // 2, W // 2, features).
  """
  return jax.lax.platform_dependent(
    x, kernel, cuda=_patches_by_product, default=_plain_patches
  )


def _plain_patches(x, kernel):
  return plain(x, kernel, stride=2, padding="VALID")


def _patches_by_product(x, kernel):
  batch, height, width, channels = x.shape
  height, width = height // 2, width // 2
  x = x[:, : 2 * height, : 2 * width]
  x = x.reshape(batch, height, 2, width, 2, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
  return x @ kernel.reshape(4 * channels, -1)


def _define_gradients(convolve, plain, backward_by_product):
  """Of a convolution (x, kernel) that is done by a product on some platforms."""

  def forward(x, kernel):
    return convolve(x, kernel), (x, kernel)

  def backward(residuals, gradient):
    return jax.lax.platform_dependent(
      *residuals,
      gradient,
      cuda=backward_by_product,
      default=_gradients_of(plain),
    )

  convolve.defvjp(forward, backward)


def _gradients_of(function):
  """(x, kernel, gradient) > gradients of both, of a function linear in each."""

  def backward(x, kernel, gradient):
    (of_x,) = jax.linear_transpose(lambda x: function(x, kernel), x)(gradient)
    (of_kernel,) = jax.linear_transpose(lambda k: function(x, k), kernel)(
      gradient
    )
    return of_x, of_kernel

  return backward


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution (no flip) with stride 1 and zeros around.

  Args:
    x: (B, H, W, C).
    kernel: (3, 3, C, features), of x's type.

  Returns:
    (B, H, W, features).
  """
  return jax.lax.platform_dependent(x, kernel, cuda=_by_product, default=plain)


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
  around = jnp.concatenate(_neighbours(gradient)[::-1], axis=-1)
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


_define_gradients(
  conv_patches, _plain_patches, _gradients_of(_patches_by_product)
)
_define_gradients(conv3x3, plain, _backward_by_product)
