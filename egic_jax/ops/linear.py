"""The product of a dense layer, with gradients in forms that CPUs are fast at."""

import functools
from typing import Any

import jax


def dot_general(
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers,
  precision=None,
  preferred_element_type=None,
) -> jax.Array:
  """`product` as `nn.Dense` calls it.

  Args:
    x: (..., C).
    kernel: (C, D).
    dimension_numbers: the last axis of x with the first of the kernel.
    precision: as in `jax.lax.dot_general`.
    preferred_element_type: must be None.

  Returns:
    (..., D), of x's type.

  Raises:
    ValueError: another product is asked for.
  """
  if dimension_numbers != (((x.ndim - 1,), (0,)), ((), ())):
    raise ValueError(
      f"dimension_numbers {dimension_numbers}: must be the last axis of x and"
      " the first of the kernel, no batch axes"
    )
  if preferred_element_type is not None:
    raise ValueError(
      f"preferred_element_type {preferred_element_type}: must be None"
    )
  return product(x, kernel, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def product(
  x: jax.Array,
  kernel: jax.Array,
  precision: Any = None,
  factor_dtype: Any = None,
) -> jax.Array:
  """x kernel, (..., C) and (C, D) > (..., D).

  The same numbers as `jax.lax.dot_general`, whose own gradient of the kernel is
  a transposed product: XLA:CPU copies the activations to transpose them, and
  then takes a routine several times slower than the one for this order.

  Args:
    x: (..., C).
    kernel: (C, D), turned into x's type here, so that its gradient is of its
      own.
    precision: as in `jax.lax.dot_general`.
    factor_dtype: type that x and the kernel are rounded to before they are
      multiplied, and so is what the gradient of x is made of; sums are x's type.
      The gradient of the kernel sums over too many tokens for that, and would
      not be faster. None: x's type.

  Returns:
    (..., D), of x's type.
  """
  kernel = kernel.astype(x.dtype)
  return _multiply(x, kernel, (x.ndim - 1, 0), precision, factor_dtype)


def gradient_of_input(
  gradient: jax.Array,
  kernel: jax.Array,
  precision: Any = None,
  factor_dtype: Any = None,
) -> jax.Array:
  """(..., D) and (C, D) > (..., C), of the gradient's type."""
  axes, kernel = (gradient.ndim - 1, 1), kernel.astype(gradient.dtype)
  return _multiply(gradient, kernel, axes, precision, factor_dtype)


def gradient_of_kernel(
  x: jax.Array, gradient: jax.Array, dtype: Any, precision: Any = None
) -> jax.Array:
  """(..., C) and (..., D) > (C, D), of `dtype`."""
  # As matrices: with more axes to sum over XLA:CPU transposes x first, and
  # recomputes what made it, one number at a time, as it does so.
  x = x.reshape(-1, x.shape[-1])
  gradient = gradient.reshape(-1, gradient.shape[-1])
  if x.shape[1] <= gradient.shape[1]:
    return _multiply(x, gradient, (0, 0), precision, dtype=dtype)
  # XLA:CPU transposes the first factor: better the narrower one. The barrier
  # keeps the two transpositions from being taken for none.
  of_kernel = _multiply(gradient, x, (0, 0), precision, dtype=dtype)
  return jax.lax.optimization_barrier(of_kernel).T


def _forward(x, kernel, precision, factor_dtype):
  return product(x, kernel, precision, factor_dtype), (x, kernel)


def _backward(precision, factor_dtype, residuals, gradient):
  x, kernel = residuals
  return (
    gradient_of_input(gradient, kernel, precision, factor_dtype),
    gradient_of_kernel(x, gradient, kernel.dtype, precision),
  )


product.defvjp(_forward, _backward)


def _multiply(a, b, axes, precision, factor_dtype=None, dtype=None):
  """The sum over these axes of a and b, in `dtype` or a's type."""
  factors = (a, b)
  if factor_dtype is not None:
    factors = (a.astype(factor_dtype), b.astype(factor_dtype))
  return jax.lax.dot_general(
    *factors,
    (((axes[0],), (axes[1],)), ((), ())),
    precision=precision,
    preferred_element_type=dtype or a.dtype,
  )
