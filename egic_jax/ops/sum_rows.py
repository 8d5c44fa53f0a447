"""Sums over the rows of several matrices as one kernel, for NVIDIA GPUs.

What a kernel's programs each found of a parameter's gradient is to be added up. XLA
takes a kernel or two for each matrix, which are soon a tenth of all of a training
step's, for some hundred KB.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel

# Columns of a program, rows that it adds up at a time, at most, and its warps: some
# hundred rows are to come in one go, as there are few programs to wait for memory.
_COLUMNS, _ROWS, _WARPS = 16, 1024, 8


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
        each = min(_ROWS, 1 << (shape[0] - 1).bit_length())

        def add(k, total):
          rows = k * each + jnp.arange(each)
          mask = None
          if shape[0] % each or inside is not None:
            mask = (rows < shape[0])[:, None]
            mask &= (columns < shape[1])[None, :]
          return total + gpu_kernel.load(refs[i], rows, columns, mask)

        zeros = jnp.zeros((each, _COLUMNS), dtype)
        rounds = -(-shape[0] // each)
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
      warps=_WARPS,
      interpret=interpret,
    )(*matrices)
  )
