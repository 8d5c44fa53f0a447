"""Layer normalisation as one kernel each way, for NVIDIA GPUs.

The arithmetic is `layer_norm`'s. A program reads some tokens, all channels of
them, once; backwards it reads the gradient too, adds that of the residual
branch, and keeps sums over its tokens for scale and bias.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel, layer_norm

# Programs of the backward kernel, about: several for each processor.
_PROGRAMS = 1056
# Numbers that a program holds of a map.
_ELEMENTS = 4096
_MOST_CHANNELS = 2048


def usable(*, channels: int, dtype: Any) -> bool:
  """Whether there is a kernel for maps of so many channels, of this type."""
  return channels <= _MOST_CHANNELS and gpu_kernel.serves(dtype)


@functools.partial(jax.jit, static_argnames="interpret")
def layer_norm_and_input(
  x: jax.Array, scale: jax.Array, bias: jax.Array, *, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
  """x as it is, for the residual sum, and `layer_norm.layer_norm` of it.

  Both at once, so that the backward pass adds their gradients in its kernel.

  Args:
    x: (..., C).
    scale, bias: (C,) float32.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    Twice (..., C), of x's type.
  """
  rows = x.reshape(-1, x.shape[-1])
  rows, normal = _both(interpret, rows, scale, bias)
  return rows.reshape(x.shape), normal.reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _both(interpret, x, scale, bias):
  """(tokens, C) > twice (tokens, C)."""
  tokens, channels = x.shape
  each, padded = _block(tokens, channels)

  def kernel(x_ref, scale_ref, bias_ref, out_ref):
    rows = gpu_kernel.program() * each + jnp.arange(each)
    block = _Block(rows, channels, padded)
    normal, _ = _normalise(block, x_ref)
    out = normal * block.row(scale_ref) + block.row(bias_ref)
    block.store(out_ref, out)

  (out,) = gpu_kernel.call(
    kernel,
    tokens // each,
    [jax.ShapeDtypeStruct(x.shape, x.dtype)],
    name="layer_norm",
    interpret=interpret,
  )(x, scale[None], bias[None])
  return x, out


def _forward(interpret, x, scale, bias):
  return _both(interpret, x, scale, bias), (x, scale)


def _backward(interpret, residuals, gradients):
  x, scale = residuals
  tokens, channels = x.shape
  each, padded = _block(tokens, channels)
  blocks = tokens // each
  programs = gpu_kernel.divisor_from(blocks, min(_PROGRAMS, blocks))

  def kernel(x_ref, scale_ref, beside_ref, gradient_ref, *out_refs):
    x_out_ref, scale_out_ref, bias_out_ref = out_refs
    program = gpu_kernel.program()
    whole = _Block(jnp.arange(each), channels, padded)
    scale = whole.row(scale_ref)

    def add_block(i, sums):
      of_scale, of_bias = sums
      first = (program * (blocks // programs) + i) * each
      block = _Block(first + jnp.arange(each), channels, padded)
      normal, inverse_deviation = _normalise(block, x_ref)
      gradient = block.load(gradient_ref)
      of_normal = gradient * scale
      of_x = inverse_deviation * (
        of_normal
        - block.mean(of_normal)
        - normal * block.mean(of_normal * normal)
      )
      block.store(x_out_ref, of_x + block.load(beside_ref))
      return of_scale + gradient * normal, of_bias + gradient

    zeros = jnp.zeros((each, padded), gpu_kernel.wide(x.dtype))
    sums = jax.lax.fori_loop(0, blocks // programs, add_block, (zeros, zeros))
    own = _Block(program + jnp.zeros(1, jnp.int32), channels, padded)
    for ref, values in zip((scale_out_ref, bias_out_ref), sums, strict=True):
      own.store(ref, jnp.sum(values, axis=0, keepdims=True))

  sums_shape = jax.ShapeDtypeStruct(
    (programs, channels), gpu_kernel.wide(x.dtype)
  )
  of_x, of_scale, of_bias = gpu_kernel.call(
    kernel,
    programs,
    [jax.ShapeDtypeStruct(x.shape, x.dtype), sums_shape, sums_shape],
    name="layer_norm_gradient",
    interpret=interpret,
  )(x, scale[None], *gradients)
  return of_x, of_scale.sum(0), of_bias.sum(0)


_both.defvjp(_forward, _backward)


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


def _normalise(block, x_ref):
  """(x - mean) / deviation, and 1 / deviation."""
  centred = block.centred(block.load(x_ref))
  variance = block.mean(centred * centred)
  inverse_deviation = jax.lax.rsqrt(variance + layer_norm.EPSILON)
  return centred * inverse_deviation, inverse_deviation


def _block(tokens: int, channels: int) -> tuple[int, int]:
  """Tokens of a block, a power of two that divides all, and its width."""
  padded = 1 << (channels - 1).bit_length()
  each = 1
  while tokens % (2 * each) == 0 and 2 * each * padded <= _ELEMENTS:
    each *= 2
  return each, padded
