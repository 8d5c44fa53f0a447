"""The count of floating-point operations that accelerators are measured by."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp

PATH = pathlib.Path(__file__).parents[1] / "benchmarks/matrix_flops.py"
_SPEC = importlib.util.spec_from_file_location("matrix_flops", PATH)
matrix_flops = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(matrix_flops)

A, B = jnp.ones((8, 16)), jnp.ones((16, 4))
PRODUCT = 2 * 8 * 16 * 4


def test_products_and_their_gradients():
  assert matrix_flops.count(jnp.matmul, A, B) == PRODUCT
  gradient = jax.grad(lambda a, b: (a @ b**2).sum(), (0, 1))
  # Two products; the one whose result no one needs is still in the program.
  assert matrix_flops.count(gradient, A, B) == 3 * PRODUCT
  batched = jax.vmap(jnp.matmul, (0, None))
  assert matrix_flops.count(batched, jnp.stack([A] * 5), B) == 5 * PRODUCT


def test_convolutions_and_their_gradients():
  x, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((2, 2, 3, 5))

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  forward = 2 * (2 * 4 * 4 * 5) * (2 * 2 * 3)
  assert matrix_flops.count(convolve, x, kernel) == forward
  gradient = jax.grad(lambda x, k: convolve(x, k).sum(), (0, 1))
  # Zeros that dilation inserts are no work.
  assert matrix_flops.count(gradient, x, kernel) <= 3.5 * forward
  assert matrix_flops.count(gradient, x, kernel) >= 3 * forward


def test_loops_count_their_trips_and_branches_the_dearest():
  def loop(a, b):
    return jax.lax.scan(lambda c, _: (c @ b @ b.T, None), a, length=3)

  assert matrix_flops.count(loop, A, B) == 3 * 2 * PRODUCT

  def branch(a, b):
    return jax.lax.cond(True, lambda: a @ b, lambda: jnp.zeros((8, 4)))

  assert matrix_flops.count(jax.jit(branch), A, B) == PRODUCT
