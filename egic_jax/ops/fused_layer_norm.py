"""Residual sum and layer normalisation as one kernel each way, for NVIDIA GPUs.

The arithmetic is `layer_norm`'s. A program reads some tokens, all channels of
them, once, and what a branch adds to them; backwards it reads both gradients,
that of the sum and that of its normalisation, adds them up, and keeps sums over
its tokens for the biases and the scale.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel, layer_norm

# Programs of the backward kernel, about: several for each processor.
_PROGRAMS = 1056
# Numbers that a program holds of a map. Backwards, twice as many would take so many
# registers (224) that a processor had but two programs at a time; so it has four.
_ELEMENTS = 2048
_MOST_CHANNELS = 2048


def usable(*, channels: int, dtype: Any) -> bool:
  """Whether there is a kernel for maps of so many channels, of this type."""
  fits = channels <= _MOST_CHANNELS
  return fits and gpu_kernel.serves("layer_norm", dtype, most_bits=32)


@functools.partial(jax.jit, static_argnames="interpret")
def layer_norm_of_sum(
  x: jax.Array,
  branch: jax.Array | None,
  branch_bias: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  *,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """x + (branch + branch_bias), and `layer_norm.layer_norm` of it.

  Args:
    x: (..., C).
    branch: (..., C), of x's type; None: the sum is x.
    branch_bias: (C,), if there is a branch.
    scale, bias: (C,) float32.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    Twice (..., C), of x's type.
  """
  shape, rows = x.shape, x.reshape(-1, x.shape[-1])
  if branch is None:
    rows, normal = _of_map(interpret, rows, scale, bias)
  else:
    branch = branch.reshape(rows.shape)
    rows, normal = _of_sum(interpret, rows, branch, branch_bias, scale, bias)
  return rows.reshape(shape), normal.reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_map(interpret, x, scale, bias):
  """(tokens, C) > twice (tokens, C)."""
  each, kernel = _normalising(x, 0)
  (out,) = _call(kernel, x.shape[0] // each, [x], "layer_norm", interpret)(
    x, scale[None], bias[None]
  )
  return x, out


def _of_map_forward(interpret, x, scale, bias):
  return _of_map(interpret, x, scale, bias), (x, scale)


def _of_map_backward(interpret, residuals, gradients):
  of_x, (of_scale, of_bias) = _gradients(interpret, *residuals, gradients, 2)
  return of_x, of_scale, of_bias


_of_map.defvjp(_of_map_forward, _of_map_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _of_sum(interpret, x, branch, branch_bias, scale, bias):
  """Twice (tokens, C), (C,) three times > twice (tokens, C)."""
  each, kernel = _normalising(x, 1)
  rows = (branch_bias, scale, bias)
  return tuple(
    _call(kernel, x.shape[0] // each, [x, x], "layer_norm_of_sum", interpret)(
      x, branch, *(row[None] for row in rows)
    )
  )


def _of_sum_forward(interpret, x, branch, branch_bias, scale, bias):
  both = _of_sum(interpret, x, branch, branch_bias, scale, bias)
  # An empty array has a type, and costs nothing.
  return both, (both[0], scale, branch_bias[:0])


def _of_sum_backward(interpret, residuals, gradients):
  x, scale, typed = residuals
  of_x, (of_scale, of_bias, of_branch_bias) = _gradients(
    interpret, x, scale, gradients, 3
  )
  of_branch_bias = of_branch_bias.astype(typed.dtype)
  return of_x, of_x, of_branch_bias, of_scale, of_bias


_of_sum.defvjp(_of_sum_forward, _of_sum_backward)


def _normalising(x, branches):
  """Tokens of a program, and the kernel forwards, with 0 or 1 branch to add."""
  channels = x.shape[1]
  each, padded = _block(*x.shape, _ELEMENTS)

  def kernel(x_ref, *refs):
    rows = gpu_kernel.program() * each + jnp.arange(each)
    block = _Block(rows, channels, padded)
    values = block.load(x_ref)
    if branches:
      branch_ref, branch_bias_ref, *refs, sum_ref, out_ref = refs
      branch = block.load(branch_ref) + block.row(branch_bias_ref)
      # As it will be read again.
      values = (values + branch).astype(x.dtype)
      block.store(sum_ref, values)
      values = values.astype(branch.dtype)
    else:
      *refs, out_ref = refs
    scale_ref, bias_ref = refs
    normal, _ = _normalise(block, values)
    block.store(out_ref, normal * block.row(scale_ref) + block.row(bias_ref))

  return each, kernel


def _gradients(interpret, x, scale, gradients, count):
  """Of x (tokens, C), and the first `count` of those of scale, bias and x's sum.

  Sums over tokens, each (C,).
  """
  tokens, channels = x.shape
  each, padded = _block(tokens, channels, _ELEMENTS)
  blocks = tokens // each
  programs = gpu_kernel.divisor_from(blocks, min(_PROGRAMS, blocks))

  def kernel(*refs):
    x_ref, scale_ref, of_sum_ref, gradient_ref, x_out_ref, *sums_refs = refs
    program = gpu_kernel.program()
    whole = _Block(jnp.arange(each), channels, padded)
    scale = whole.row(scale_ref)

    def add_block(i, sums):
      first = (program * (blocks // programs) + i) * each
      block = _Block(first + jnp.arange(each), channels, padded)
      normal, inverse_deviation = _normalise(block, block.load(x_ref))
      gradient = block.load(gradient_ref)
      of_normal = gradient * scale
      of_x = inverse_deviation * (
        of_normal
        - block.mean(of_normal)
        - normal * block.mean(of_normal * normal)
      )
      of_x += block.load(of_sum_ref)
      block.store(x_out_ref, of_x)
      found = (gradient * normal, gradient, of_x)
      return tuple(a + b for a, b in zip(sums, found, strict=False))

    zeros = jnp.zeros((each, padded), gpu_kernel.wide(x.dtype))
    sums = jax.lax.fori_loop(0, blocks // programs, add_block, (zeros,) * count)
    own = _Block(program + jnp.zeros(1, jnp.int32), channels, padded)
    for ref, values in zip(sums_refs, sums, strict=True):
      own.store(ref, jnp.sum(values, axis=0, keepdims=True))

  sums_shape = jax.ShapeDtypeStruct(
    (programs, channels), gpu_kernel.wide(x.dtype)
  )
  of_x, *sums = gpu_kernel.call(
    kernel,
    programs,
    [jax.ShapeDtypeStruct(x.shape, x.dtype), *(sums_shape,) * count],
    name="layer_norm_gradient",
    interpret=interpret,
  )(x, scale[None], *gradients)
  return of_x, [one.sum(0) for one in sums]


def _call(kernel, programs, like, name, interpret):
  shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like]
  return gpu_kernel.call(
    kernel, programs, shapes, name=name, interpret=interpret
  )


class _Block:
  """Some tokens of a map, their channels completed to a power of two."""

  def __init__(self, rows: jax.Array, channels: int, padded: int):
    self._rows = rows
    self._columns = jnp.arange(padded)
    self._channels = channels
    inside = None if channels == padded else self._columns < channels
    self._inside = inside

  def _mask(self, rows):
    if self._inside is None:
      return None
    return jnp.broadcast_to(self._inside[None], (rows, len(self._columns)))

  def load(self, ref):
    """At least float32, zeros beyond the channels."""
    mask = self._mask(len(self._rows))
    found = gpu_kernel.load(ref, self._rows, self._columns, mask)
    return found.astype(gpu_kernel.wide(found.dtype))

  def row(self, ref):
    """Of a matrix of one row: (1, padded)."""
    zero = jnp.zeros(1, jnp.int32)
    return gpu_kernel.load(ref, zero, self._columns, self._mask(1))

  def store(self, ref, values):
    mask = self._mask(values.shape[0])
    gpu_kernel.store(ref, self._rows, self._columns, values, mask)

  def mean(self, values):
    """Over channels; beyond them there must be zeros."""
    return jnp.sum(values, axis=1, keepdims=True) / self._channels

  def centred(self, values):
    values = values - self.mean(values)
    if self._inside is None:
      return values
    return jnp.where(self._inside[None], values, 0.0)


def _normalise(block, x):
  """(x - mean) / deviation, and 1 / deviation."""
  centred = block.centred(x)
  variance = block.mean(centred * centred)
  inverse_deviation = jax.lax.rsqrt(variance + layer_norm.EPSILON)
  return centred * inverse_deviation, inverse_deviation


def _block(tokens: int, channels: int, elements: int) -> tuple[int, int]:
  """Tokens of a block, a power of two that divides all, and its width."""
  padded = 1 << (channels - 1).bit_length()
  each = 1
  while tokens % (2 * each) == 0 and 2 * each * padded <= elements:
    each *= 2
  return each, padded
