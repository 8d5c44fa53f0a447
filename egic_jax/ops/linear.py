"""The product of a dense layer, with gradients in forms that CPUs are fast at."""

import functools

import jax


def dot_general(
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers,
  precision=None,
  preferred_element_type=None,
) -> jax.Array:
  """x kernel, (..., C) and (C, D) > (..., D); what `nn.Dense` calls.

  The same numbers as `jax.lax.dot_general`, whose own gradient of the kernel is
  a transposed product: XLA:CPU copies the activations to transpose them, and
  then takes a routine several times slower than the one for this order.

  Args:
    x: (..., C).
    kernel: (C, D), of x's type.
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
  return _product(x, kernel, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, kernel, precision):
  return jax.lax.dot_general(
    x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=precision
  )


def _forward(x, kernel, precision):
  return _product(x, kernel, precision), (x, kernel)


def _backward(precision, residuals, gradient):
  x, kernel = residuals
  last = x.ndim - 1
  of_x = jax.lax.dot_general(
    gradient, kernel, (((last,), (1,)), ((), ())), precision=precision
  )
  # As matrices: with more axes to sum over XLA:CPU transposes x first, and
  # recomputes what made it, one number at a time, as it does so.
  of_kernel = jax.lax.dot_general(
    x.reshape(-1, x.shape[-1]),
    gradient.reshape(-1, gradient.shape[-1]),
    (((0,), (0,)), ((), ())),
    precision=precision,
  )
  return of_x, of_kernel


_product.defvjp(_forward, _backward)
