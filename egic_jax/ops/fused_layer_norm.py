"""Residual sum and layer normalisation as one kernel each way, for NVIDIA GPUs.

The arithmetic is `layer_norm`'s. A program reads some tokens, all channels of
them, once, and what a branch adds to them; backwards it reads both gradients,
that of the sum and that of its normalisation, adds them up, and keeps sums over
its tokens for the biases and the scale.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from egic_jax.ops import gpu_kernel, layer_norm, sum_rows

# Programs of the backward kernel, about: four for each processor. The more, the more
# sums there are to add up in the end.
_PROGRAMS = 528
# Numbers that a program holds of a map, and those of 32 threads: the fastest of some
# on an H200 (benchmarks/log.md).
_ELEMENTS, _PER_WARP = 4096, 256
_ELEMENTS_BACK, _PER_WARP_BACK = 1024, 512
_MOST_CHANNELS = 2048


def usable(*, channels: int, dtype: Any) -> bool:
  """Whether there is a kernel for maps of so many channels, of this type."""
  fits = channels <= _MOST_CHANNELS
  return fits and gpu_kernel.serves("layer_norm", dtype, most_bits=32)


@functools.partial(jax.jit, static_argnames=("devices", "interpret"))
def layer_norm_of_sum(
  x: jax.Array,
  branch: jax.Array | None,
  branch_bias: jax.Array | None,
  scale: jax.Array,
  bias: jax.Array,
  *,
  devices: gpu_kernel.Devices = gpu_kernel.ONE_DEVICE,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """x + (branch + branch_bias), and `layer_norm.layer_norm` of it.

  Args:
    x: (..., C).
    branch: (..., C), of x's type; None: the sum is x.
    branch_bias: (C,), if there is a branch.
    scale, bias: (C,) float32.
    devices: that share the first axis.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    Twice (..., C), of x's type.
  """

  def rows(x):
    return None if x is None else x.reshape(-1, x.shape[-1])

  def both(x, branch, *vectors):
    total, normal = _both(_Settings(interpret), rows(x), rows(branch), *vectors)
    return total.reshape(x.shape), normal.reshape(x.shape)

  return devices.each(both, (True, True, False, False, False))(
    x, branch, branch_bias, scale, bias
  )


@functools.partial(jax.jit, static_argnames=("merged", "devices", "interpret"))
def layer_norm_of_phases(
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
  *,
  merged: bool,
  devices: gpu_kernel.Devices = gpu_kernel.ONE_DEVICE,
  interpret: bool = False,
) -> jax.Array:
  """Normalisation after `space_to_depth.merge_phases` or before `depth_to_space`.

  The map is read, or written, where its phases are.

  Args:
    x: (B, H, W, C).
    scale, bias: (4 C,) float32 if phases are merged first, else (C,).
    merged: whether they are; else they are put in their places afterwards.
    devices: that share the first axis.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    (B, H/2, W/2, 4 C) if merged, else (B, 2 H, 2 W, C/4); of x's type.
  """

  def normalise(x, *vectors):
    batch, height, width, channels = x.shape
    if merged:
      height, width = height // 2, width // 2
      shape = (batch, height, width, 4 * channels)
    else:
      shape = (batch, 2 * height, 2 * width, channels // 4)
    phases = _Phases(width, column_first=merged)
    settings = _Settings(interpret, phases, merged)
    _, out = _both(settings, x.reshape(-1, channels), None, None, *vectors)
    return out.reshape(shape)

  return devices.each(normalise, (True, False, False))(x, scale, bias)


class _Phases(NamedTuple):
  """Where four phases of a token, side by side, are in a map of twice the side.

  Attributes:
    width: of the map of tokens.
    column_first: whether the second phase is the one below, not to the right.
  """

  width: int
  column_first: bool

  def places(self, tokens, columns, channels):
    """Rows and columns of the larger map: both (T, N), of (T,) and (N,)."""
    phase, column = (
      f(columns, jnp.full_like(columns, channels))
      for f in (jax.lax.div, jax.lax.rem)
    )
    first, second = phase // 2, phase % 2
    if self.column_first:
      first, second = second, first
    width = jnp.full_like(tokens, self.width)
    row = 2 * jax.lax.div(tokens, width)[:, None] + first[None]
    place = 2 * jax.lax.rem(tokens, width)[:, None] + second[None]
    rows = row * (2 * self.width) + place
    return rows, jnp.broadcast_to(column[None], rows.shape)


class _Settings(NamedTuple):
  """What is compiled in.

  Attributes:
    interpret: runs anywhere.
    phases: of one of both maps, which is then of a quarter of the channels.
    merged: whether it is the map that is normalised.
  """

  interpret: bool
  phases: _Phases | None = None
  merged: bool = False

  def tokens(self, x: jax.Array) -> tuple[int, int]:
    """Of a map (rows, columns): how many are normalised, and their channels."""
    rows, columns = x.shape
    return (rows // 4, 4 * columns) if self.merged else (rows, columns)

  def out_shape(self, x: jax.Array) -> tuple[int, int]:
    tokens, channels = self.tokens(x)
    if self.phases and not self.merged:
      return 4 * tokens, channels // 4
    return tokens, channels


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _both(settings, x, branch, branch_bias, scale, bias):
  """Twice (tokens, C) or None for the second, three times (C,) > twice (tokens, C)."""
  tokens, channels = settings.tokens(x)
  each, padded = _block(tokens, channels, _ELEMENTS)
  is_sum = branch is not None

  def kernel(x_ref, *refs):
    rows = gpu_kernel.program() * each + jnp.arange(each)
    block = _Block(rows, channels, padded, settings.phases)
    values = block.load(x_ref)
    if is_sum:
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

  sum_shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  out_shape = jax.ShapeDtypeStruct(settings.out_shape(x), x.dtype)
  parts = (x, branch, branch_bias[None]) if is_sum else (x,)
  outs = gpu_kernel.call(
    kernel,
    tokens // each,
    [sum_shape, out_shape] if is_sum else [out_shape],
    name="layer_norm_of_sum" if is_sum else "layer_norm",
    warps=_warps(each * padded, _PER_WARP),
    interpret=settings.interpret,
  )(*parts, scale[None], bias[None])
  return tuple(outs) if is_sum else (x, *outs)


def _forward(settings, *arguments):
  x, branch, branch_bias, scale, bias = (
    None if arg is None else arg.value for arg in arguments
  )
  total, normal = _both(settings, x, branch, branch_bias, scale, bias)
  return (total, normal), (total, branch_bias, scale)


def _backward(settings, residuals, gradients):
  x, branch_bias, scale = residuals
  of_sum, of_normal = (_unless_zero(gradient) for gradient in gradients)
  if of_normal is None:
    of_normal = jnp.zeros(settings.out_shape(x), x.dtype)
  gradients = (of_normal, of_sum)
  if branch_bias is None:
    of_x, (of_scale, of_bias) = _gradients(settings, x, scale, gradients, 2)
    return of_x, None, None, of_scale, of_bias
  of_x, (of_scale, of_bias, of_branch_bias) = _gradients(
    settings, x, scale, gradients, 3
  )
  of_branch_bias = of_branch_bias.astype(branch_bias.dtype)
  return of_x, of_x, of_branch_bias, of_scale, of_bias


def _unless_zero(gradient):
  """None for zeros that are not there: of what is not used."""
  is_zero = isinstance(gradient, jax.custom_derivatives.SymbolicZero)
  return None if is_zero else gradient


_both.defvjp(_forward, _backward, symbolic_zeros=True)


def _gradients(settings, x, scale, gradients, count):
  """Of x, as it is, and the first `count` of those of scale, bias and x's sum.

  `gradients` are those of the normalised map and, or None, of the map itself. Sums
  are over tokens, each (C,).
  """
  tokens, channels = settings.tokens(x)
  each, padded = _block(tokens, channels, _ELEMENTS_BACK)
  blocks = tokens // each
  programs = gpu_kernel.divisor_from(blocks, min(_PROGRAMS, blocks))
  inputs = [x, scale[None], *(g for g in gradients if g is not None)]

  def kernel(*refs):
    x_ref, scale_ref, gradient_ref, *of_sum_refs = refs[: len(inputs)]
    x_out_ref, *sums_refs = refs[len(inputs) :]
    program = gpu_kernel.program()
    whole = _Block(jnp.arange(each), channels, padded, settings.phases)
    scale = whole.row(scale_ref)

    def add_block(i, sums):
      first = (program * (blocks // programs) + i) * each
      rows = first + jnp.arange(each)
      block = _Block(rows, channels, padded, settings.phases)
      normal, inverse_deviation = _normalise(block, block.load(x_ref))
      gradient = block.load(gradient_ref)
      of_normal = gradient * scale
      of_x = inverse_deviation * (
        of_normal
        - block.mean(of_normal)
        - normal * block.mean(of_normal * normal)
      )
      for ref in of_sum_refs:
        of_x += block.load(ref)
      block.store(x_out_ref, of_x)
      found = (gradient * normal, gradient, of_x)
      return tuple(a + b for a, b in zip(sums, found, strict=False))

    zeros = jnp.zeros((each, padded), gpu_kernel.wide(x.dtype))
    sums = jax.lax.fori_loop(0, blocks // programs, add_block, (zeros,) * count)
    own = _Block(program + jnp.zeros(1, jnp.int32), channels, padded, None)
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
    warps=_warps(each * padded, _PER_WARP_BACK),
    interpret=settings.interpret,
  )(*inputs)
  return of_x, sum_rows.sum_rows(sums, interpret=settings.interpret)


class _Block:
  """Some tokens of a map, their channels completed to a power of two."""

  def __init__(
    self,
    rows: jax.Array,
    channels: int,
    padded: int,
    phases: _Phases | None,
  ):
    self._rows, self._phases = rows, phases
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
    found = gpu_kernel.load(ref, *self._places(ref), mask)
    return found.astype(gpu_kernel.wide(found.dtype))

  def _places(self, ref):
    if ref.shape[1] == self._channels:
      return self._rows, self._columns
    return self._phases.places(self._rows, self._columns, ref.shape[1])

  def row(self, ref):
    """Of a matrix of one row: (1, padded)."""
    zero = jnp.zeros(1, jnp.int32)
    return gpu_kernel.load(ref, zero, self._columns, self._mask(1))

  def store(self, ref, values):
    mask = self._mask(values.shape[0])
    gpu_kernel.store(ref, *self._places(ref), values, mask)

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


def _block(tokens: int, channels: int, most: int) -> tuple[int, int]:
  """Tokens of a block, a power of two that divides all, and its width."""
  padded = 1 << (channels - 1).bit_length()
  each = 1
  while tokens % (2 * each) == 0 and 2 * each * padded <= most:
    each *= 2
  return each, padded


def _warps(elements: int, per_warp: int) -> int:
  """Of a program with so many numbers, both powers of two."""
  return max(1, min(16, elements // per_warp))
