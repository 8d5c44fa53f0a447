"""Sums over the rows of several matrices as one kernel, for NVIDIA GPUs.

What a kernel's programs each found of a parameter's gradient is to be added up. XLA
takes a kernel or two for each matrix, which are soon a tenth of all of a training
step's, for some hundred KB.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel

# Columns of a program, and rows that it adds up at a time: some hundred rows should
# not take many rounds, in which few programs wait for memory.
_COLUMNS, _ROWS = 32, 64


def sum_rows(
  matrices: Sequence[jax.Array], *, interpret: bool = False
) -> list[jax.Array]:
  """Of each matrix (R, C) the sum over its rows, (C,), of its type.

  Args:
    matrices: of any numbers of rows and columns, float32 or float64.
    interpret: runs anywhere, slowly: for tests.
  """
  count = len(matrices)
  first = [0]
  for matrix in matrices:
    first.append(first[-1] + -(-matrix.shape[1] // _COLUMNS))

  def kernel(*refs):
    program = gpu_kernel.program()
    for i, matrix in enumerate(matrices):

      def block(i=i, shape=matrix.shape, dtype=matrix.dtype):
        columns = (program - first[i]) * _COLUMNS + jnp.arange(_COLUMNS)
        inside = columns < shape[1] if shape[1] % _COLUMNS else None

        def add(k, total):
          rows = k * _ROWS + jnp.arange(_ROWS)
          mask = None
          if shape[0] % _ROWS or inside is not None:
            mask = (rows < shape[0])[:, None]
            mask &= (columns < shape[1])[None, :]
          return total + gpu_kernel.load(refs[i], rows, columns, mask)

        zeros = jnp.zeros((_ROWS, _COLUMNS), dtype)
        rounds = -(-shape[0] // _ROWS)
        total = jax.lax.fori_loop(0, rounds, add, zeros)
        sums = jnp.sum(total, axis=0)
        gpu_kernel.store_flat(refs[count + i], columns, inside, sums)

      is_own = (program >= first[i]) & (program < first[i + 1])
      gpu_kernel.when(is_own, block)

  return list(
    gpu_kernel.call(
      kernel,
      first[-1],
      [jax.ShapeDtypeStruct(m.shape[1:], m.dtype) for m in matrices],
      name="sum_rows",
      stages=3,
      interpret=interpret,
    )(*matrices)
  )
