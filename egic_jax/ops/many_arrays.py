"""Kernels that go through hundreds of arrays at once, for NVIDIA GPUs.

An optimiser does little for each of a network's hundreds of parameters, and XLA
starts a kernel for each, which takes longer than what it does. A kernel here is
handed some dozens of arrays; a program finds out whose it is.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel

# Numbers of an array that a program goes through.
_ELEMENTS = 1024
# Of a kernel. Some 500 pointers can be handed to one, but the fewer, the sooner it is
# compiled.
_MOST_ARRAYS = 150


def update(
  function: Callable[..., Sequence[jax.Array]],
  scalars: jax.Array,
  old: Sequence[Sequence[jax.Array]],
  beside: Sequence[Sequence[jax.Array]],
  *,
  name: str,
  interpret: bool = False,
) -> list[list[jax.Array]]:
  """New values of lists of arrays, element by element, in place if they may be.

  Args:
    function: (scalars, *values of old, *values of beside) > values of old, all
      of at least float32 and of one shape; scalars is a list.
    scalars: (S,), the same for all.
    old: lists of equal length; the i-th entries of all are of one shape.
    beside: likewise, lists of what is only read; () if nothing is.
    name: for profiles.
    interpret: runs anywhere, slowly: for tests.

  Returns:
    As many lists as old, of arrays of its shapes and types.
  """
  counts = len(old), len(old) + len(beside)

  def one_array(program, place, refs):
    del program
    scalars_ref, *refs = refs
    ins, outs = refs[: counts[1]], refs[counts[1] :]
    values = [gpu_kernel.load_flat(ref, *place) for ref in ins]
    wide = [value.astype(gpu_kernel.wide(value.dtype)) for value in values]
    listed = [scalars_ref[i] for i in range(scalars.shape[0])]
    for ref, new in zip(outs, function(listed, *wide), strict=True):
      gpu_kernel.store_flat(ref, *place, new)

  new = []
  for rows in _parts(list(zip(*old, *beside, strict=True)), sum(counts)):
    flat = [[array.reshape(-1) for array in row] for row in rows]
    kernel, programs = _kernel(one_array, flat, shared=1, outputs=counts[0])
    outs = gpu_kernel.call(
      kernel,
      programs,
      [
        jax.ShapeDtypeStruct(array.shape, array.dtype)
        for row in flat
        for array in row[: counts[0]]
      ],
      name=name,
      replaced={
        1 + i * counts[1] + k: i * counts[0] + k
        for i in range(len(flat))
        for k in range(counts[0])
      },
      interpret=interpret,
    )(scalars, *(array for row in flat for array in row))
    for i, row in enumerate(rows):
      own = outs[i * counts[0] : (i + 1) * counts[0]]
      new.append(
        [out.reshape(a.shape) for out, a in zip(own, row, strict=False)]
      )
  return [list(column) for column in zip(*new, strict=True)]


def sum_of_squares(
  arrays: Sequence[jax.Array], *, interpret: bool = False
) -> jax.Array:
  """Over all elements of all arrays, of any shapes: (), at least float32."""
  total = 0.0
  for part in _parts([(array,) for array in arrays], 1):
    flat = [[array.reshape(-1)] for (array,) in part]
    wide = gpu_kernel.wide(jnp.result_type(*(array for (array,) in part)))

    def one_array(program, place, refs, wide=wide):
      ref, out_ref = refs
      values = gpu_kernel.load_flat(ref, *place).astype(wide)
      out_ref[program] = jnp.sum(values * values)

    kernel, programs = _kernel(one_array, flat, shared=0, outputs=0)
    (sums,) = gpu_kernel.call(
      kernel,
      programs,
      [jax.ShapeDtypeStruct((programs,), wide)],
      name="sum_of_squares",
      interpret=interpret,
    )(*(array for (array,) in flat))
    total += sums.sum()
  return total


def _parts(rows: list[Any], arrays_each: int):
  """Rows that one kernel can take, of equal numbers as nearly as can be."""
  most = max(1, _MOST_ARRAYS // arrays_each)
  parts = -(-len(rows) // most)
  for k in range(parts):
    yield rows[k * len(rows) // parts : (k + 1) * len(rows) // parts]


def _kernel(one_array, flat, *, shared, outputs):
  """A kernel that has each program do a block of one array, and how many.

  Args:
    one_array: (program, (places, mask), references), which are those shared,
      those of the row's arrays, and those of its outputs, or that for all rows.
    flat: rows of arrays of one dimension; those of a row are of one size.
    shared: how many references come first, for all.
    outputs: how many each row has; 0 if there is one for all.
  """
  inputs = len(flat[0])
  first = [0]
  for row in flat:
    first.append(first[-1] + -(-row[0].size // _ELEMENTS))

  def kernel(*refs):
    common, refs = refs[:shared], refs[shared:]
    ins, outs = refs[: inputs * len(flat)], refs[inputs * len(flat) :]
    program = gpu_kernel.program()
    for i, row in enumerate(flat):
      own = ins[i * inputs : (i + 1) * inputs]
      own_outs = outs[i * outputs : (i + 1) * outputs] if outputs else outs

      def block(i=i, size=row[0].size, own=own, own_outs=own_outs):
        places = (program - first[i]) * _ELEMENTS + jnp.arange(_ELEMENTS)
        mask = places < size if size % _ELEMENTS else None
        one_array(program, (places, mask), (*common, *own, *own_outs))

      is_own = (program >= first[i]) & (program < first[i + 1])
      gpu_kernel.when(is_own, block)

  return kernel, first[-1]
