"""The dense product's own gradient, against the one that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import linear


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 3, 4, 5)])
def test_value_and_gradients_in_float64(shape, float64):
  rng = np.random.default_rng(0)
  x, kernel = rng.standard_normal(shape), rng.standard_normal((5, 7))
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
