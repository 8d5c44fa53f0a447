"""The dense product's own gradient, against the one that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import linear


# 9 is wider than what it is multiplied to, 7; the gradient is turned then.
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 3, 4, 5), (2, 3, 9)])
def test_value_and_gradients_in_float64(shape, float64):
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal(shape), rng.standard_normal((shape[-1], 7))
  weight = rng.standard_normal((*shape[:-1], 7))
  numbers = (((len(shape) - 1,), (0,)), ((), ()))

  def run(product):
    def loss(x, kernel):
      return (product(x, kernel, numbers) * weight).sum()

    return jax.value_and_grad(loss, argnums=(0, 1))(
      jnp.asarray(x), jnp.asarray(kernel)
    )

  ours, plain = run(linear.dot_general), run(jax.lax.dot_general)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_another_product_is_refused():
  x = jnp.ones((2, 3))
  with pytest.raises(ValueError, match="dimension_numbers"):
    linear.dot_general(x, x, (((1,), (1,)), ((), ())))


@pytest.mark.parametrize("width", [100, 400])
def test_factors_are_rounded_and_sums_are_not(width):
  rng = np.random.default_rng(0)
  x, kernel, weight = (
    jnp.asarray(rng.standard_normal(shape), jnp.float32)
    for shape in ((300, width), (width, 200), (300, 200))
  )

  def loss(x, kernel):
    y = linear.product(x, kernel, "highest", jnp.bfloat16)
    return (y * weight).sum(), y

  (of_x, of_kernel), y = jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

  def wide(*factors):
    rounded = (np.asarray(f.astype(jnp.bfloat16), np.float64) for f in factors)
    return np.matmul(*rounded)

  for ours, exact in [
    (y, wide(x, kernel)),
    (of_x, wide(weight, kernel.T)),
    # From what was not rounded.
    (of_kernel, np.asarray(x, np.float64).T @ np.asarray(weight, np.float64)),
  ]:
    assert ours.dtype == jnp.float32
    # Sums in bfloat16 would be off by 0.1, factors not rounded by 0.05.
    np.testing.assert_allclose(ours, exact, atol=2e-4)


def test_gradient_of_a_wide_kernel_is_wide():
  """Not rounded to the narrow type of what it is a sum of."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((64, 8)), jnp.bfloat16)
  kernel = jnp.asarray(rng.standard_normal((8, 5)), jnp.float32)
  gradient = jnp.asarray(rng.standard_normal((64, 5)), jnp.bfloat16)
  out, pull = jax.vjp(linear.product, x, kernel)
  of_x, of_kernel = pull(gradient)
  assert out.dtype == of_x.dtype == jnp.bfloat16
  assert of_kernel.dtype == jnp.float32
  expected = np.asarray(x, np.float64).T @ np.asarray(gradient, np.float64)
  np.testing.assert_allclose(of_kernel, expected, rtol=1e-5, atol=1e-5)
