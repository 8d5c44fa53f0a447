"""The kernel that adds up rows, interpreted, against the plain sum."""

import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import sum_rows


@pytest.mark.parametrize(
  "shapes", [[(64, 32)], [(3, 5), (130, 70), (1, 1)], [(264, 96), (66, 4096)]]
)
def test_is_the_sum_of_each_matrix(shapes, float64):
  rng = np.random.default_rng(0)
  matrices = [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]
  found = sum_rows.sum_rows(matrices, interpret=True)
  for matrix, sums in zip(matrices, found, strict=True):
    assert sums.dtype == matrix.dtype
    np.testing.assert_allclose(sums, matrix.sum(0), rtol=0, atol=1e-12)
