"""Kernels over lists of arrays, interpreted, against one array at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import many_arrays

# Less than a block, one, several and a bit; of several dimensions, and none.
SHAPES = [(7,), (1024,), (3, 5, 2), (), (64, 48), (1,), (2, 512), (31, 33)] * 3


def _arrays(seed, dtype=jnp.float64):
  rng = np.random.default_rng(seed)
  return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


@pytest.mark.parametrize("most", [1000, 12, 1])
def test_update(most, float64, monkeypatch):
  monkeypatch.setattr(many_arrays, "_MOST_ARRAYS", most)
  a, b, c = _arrays(0), _arrays(1), _arrays(2)

  def function(scalars, a, b, c):
    return a * scalars[0] + c, b - scalars[1] * a

  scalars = jnp.asarray([2.0, 3.0])
  new_a, new_b = many_arrays.update(
    function, scalars, (a, b), (c,), name="test", interpret=True
  )
  assert len(new_a) == len(new_b) == len(SHAPES)
  for i in range(len(SHAPES)):
    np.testing.assert_allclose(new_a[i], a[i] * 2 + c[i], atol=1e-14)
    np.testing.assert_allclose(new_b[i], b[i] - 3 * a[i], atol=1e-14)
    assert new_a[i].shape == SHAPES[i]


def test_types_are_those_of_what_is_replaced():
  old, beside = _arrays(0, jnp.float32), _arrays(1, jnp.bfloat16)
  (new,) = many_arrays.update(
    lambda _, old, beside: (old + beside,),
    jnp.zeros(1),
    (old,),
    (beside,),
    name="test",
    interpret=True,
  )
  for found, a, b in zip(new, old, beside, strict=True):
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, a + b)


@pytest.mark.parametrize("most", [1000, 5])
def test_sum_of_squares(most, float64, monkeypatch):
  monkeypatch.setattr(many_arrays, "_MOST_ARRAYS", most)
  arrays = _arrays(0)
  found = many_arrays.sum_of_squares(arrays, interpret=True)
  expected = sum(np.sum(np.square(array)) for array in arrays)
  np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_sum_of_squares_of_narrow_types_is_taken_in_wide_ones():
  arrays = [jnp.full((4096,), 3.0, jnp.bfloat16), jnp.ones((2,), jnp.float32)]
  found = many_arrays.sum_of_squares(arrays, interpret=True)
  assert found.dtype == jnp.float32
  assert found == 4096 * 9 + 2
