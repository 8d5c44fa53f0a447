"""The MLP of a Swin block with GELU inside its products, for NVIDIA GPUs.

Dense, GELU, dense, the same as `linear` and `gelu`, but for a GELU good
to 8e-6. The hidden layer is four times as wide as the map, and to read and write
it is most of what an MLP costs. One kernel makes its GELU and, for the backward pass,
GELU's slope in one go: the layer itself is never written. Backwards, one makes its
gradient and that of its bias, where XLA writes the gradient of GELU's result and
reads it again. The other products are XLA's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.ops import gelu, gpu_kernel, linear, sum_rows

# Sides of what a program makes at a time, its warps, and tiles that are under way.
_ROWS, _COLUMNS, _COLUMNS_BACK = 64, 128, 128
_WARPS, _WARPS_BACK = 8, 8
_STAGES, _STAGES_BACK = 3, 3
# Programs, at most: two for each processor.
_PROGRAMS, _PROGRAMS_BACK = 264, 264
# The least side of a matrix that the chip multiplies.
_LEAST_SIDE = 16


def usable(*, tokens: int, channels: int, hidden: int, dtype: Any) -> bool:
  """Whether there is a kernel for maps of so many tokens and channels.

  Args:
    tokens: of a device's maps.
    channels: of the map.
    hidden: of the layer between.
    dtype: of the map.
  """
  sides = (
    gpu_kernel.power_of_two_in(tokens, _ROWS),
    gpu_kernel.power_of_two_in(hidden, _COLUMNS),
    channels & -channels,
  )
  return min(sides) >= _LEAST_SIDE and gpu_kernel.serves("mlp", dtype)


@functools.partial(jax.jit, static_argnames=("devices", "interpret"))
def mlp(
  x: jax.Array,
  kernel_in: jax.Array,
  bias_in: jax.Array,
  kernel_out: jax.Array,
  *,
  devices: gpu_kernel.Devices = gpu_kernel.ONE_DEVICE,
  interpret: bool = False,
) -> jax.Array:
  """gelu(x kernel_in + bias_in) kernel_out.

  Args:
    x: (..., C).
    kernel_in: (C, D), float32 or x's type; so are the others. Kernels are turned
      into x's type, gradients are of their own.
    bias_in: (D,).
    kernel_out: (D, E).
    devices: that share the first axis.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    (..., E), of x's type.
  """

  def of_part(x, *params):
    out = _mlp(interpret, x.reshape(-1, x.shape[-1]), *params)
    return out.reshape(*x.shape[:-1], -1)

  return devices.each(of_part, (True, False, False, False))(
    x, kernel_in, bias_in, kernel_out
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mlp(interpret, x, kernel_in, bias_in, kernel_out):
  (active,) = _hidden(interpret, x, kernel_in, bias_in, slopes=False)
  return linear.product(active, kernel_out)


def _forward(interpret, x, kernel_in, bias_in, kernel_out):
  active, slope = _hidden(interpret, x, kernel_in, bias_in, slopes=True)
  out = linear.product(active, kernel_out)
  return out, (x, kernel_in, bias_in, kernel_out, active, slope)


def _backward(interpret, residuals, gradient):
  x, kernel_in, bias_in, kernel_out, active, slope = residuals
  of_hidden, of_bias = _of_hidden(interpret, gradient, kernel_out, slope)
  return (
    linear.gradient_of_input(of_hidden, kernel_in),
    _gradient_of_kernel(x, of_hidden, kernel_in.dtype),
    of_bias.astype(bias_in.dtype),
    _gradient_of_kernel(active, gradient, kernel_out.dtype),
  )


_mlp.defvjp(_forward, _backward)


def _gradient_of_kernel(x, gradient, dtype):
  """(tokens, C) and (tokens, D) > (C, D); on GPUs any order is as good."""
  return jax.lax.dot_general(
    x, gradient, (((0,), (0,)), ((), ())), preferred_element_type=dtype
  )


def _hidden(interpret, x, kernel_in, bias_in, slopes):
  """The hidden layer behind GELU and, if wanted, GELU's slopes: (tokens, D)."""
  tiles = _Tiles(x.shape[0], *kernel_in.shape, _COLUMNS, _PROGRAMS)

  def kernel(x_ref, kernel_ref, bias_ref, *out_refs):
    group, columns = tiles.of_program()
    depths = tiles.depths()
    factors = [gpu_kernel.load(kernel_ref, depth, columns) for depth in depths]
    bias = gpu_kernel.load(bias_ref, jnp.zeros(1, jnp.int32), columns)

    def make_tile(i, _):
      rows = tiles.rows(group, i)
      hidden = _total(
        gpu_kernel.dot(gpu_kernel.load(x_ref, rows, depth), factor)
        for depth, factor in zip(depths, factors, strict=True)
      )
      hidden += bias.astype(hidden.dtype)
      if slopes:
        outs = gelu.of_kernels_with_slope(hidden)
      else:
        outs = (gelu.of_kernels(hidden),)
      for ref, values in zip(out_refs, outs, strict=True):
        gpu_kernel.store(ref, rows, columns, values)

    jax.lax.fori_loop(0, tiles.rounds(group), make_tile, None)

  shape = jax.ShapeDtypeStruct((x.shape[0], kernel_in.shape[1]), x.dtype)
  return gpu_kernel.call(
    kernel,
    tiles.programs,
    [shape] * (2 if slopes else 1),
    name="mlp_in",
    warps=_WARPS,
    stages=_STAGES,
    interpret=interpret,
  )(x, kernel_in.astype(x.dtype), bias_in[None])


def _of_hidden(interpret, gradient, kernel_out, slope):
  """Gradients of the hidden layer before GELU, (tokens, D), and of its bias."""
  width, depth = kernel_out.shape
  tiles = _Tiles(slope.shape[0], depth, width, _COLUMNS_BACK, _PROGRAMS_BACK)
  wide = gpu_kernel.wide(gradient.dtype)

  def kernel(gradient_ref, kernel_ref, slope_ref, out_ref, bias_out_ref):
    group, columns = tiles.of_program()
    depths = tiles.depths()
    factors = [gpu_kernel.load(kernel_ref, columns, depth) for depth in depths]

    def make_tile(i, of_bias):
      rows = tiles.rows(group, i)
      # Asked for before the sum, so that it is there behind it.
      slope = gpu_kernel.load(slope_ref, rows, columns)
      of_active = _total(
        gpu_kernel.dot(
          gpu_kernel.load(gradient_ref, rows, depth), factor, trans_b=True
        )
        for depth, factor in zip(depths, factors, strict=True)
      )
      of_hidden = of_active * slope.astype(wide)
      gpu_kernel.store(out_ref, rows, columns, of_hidden)
      return of_bias + of_hidden

    zeros = jnp.zeros((tiles.height, tiles.width), wide)
    of_bias = jax.lax.fori_loop(0, tiles.rounds(group), make_tile, zeros)
    gpu_kernel.store(
      bias_out_ref,
      group + jnp.zeros(1, jnp.int32),
      columns,
      jnp.sum(of_bias, axis=0, keepdims=True),
    )

  of_hidden, of_bias = gpu_kernel.call(
    kernel,
    tiles.programs,
    [
      jax.ShapeDtypeStruct(slope.shape, slope.dtype),
      jax.ShapeDtypeStruct((tiles.groups, slope.shape[1]), wide),
    ],
    name="mlp_gradient",
    warps=_WARPS_BACK,
    stages=_STAGES_BACK,
    interpret=interpret,
  )(gradient, kernel_out.astype(gradient.dtype), slope)
  (of_bias,) = sum_rows.sum_rows([of_bias], interpret=interpret)
  return of_hidden, of_bias


def _total(products):
  """Their sum.

  Added up as plain sums, the compiler has each product begin with the one before,
  for which it hands them over through memory.
  """
  return functools.reduce(
    lambda total, product: gpu_kernel.multiply_add(product, 1.0, total),
    products,
  )


class _Tiles:
  """What programs make of a product of (tokens, depth) and (depth, width).

  A program keeps some columns of the second factor and goes through tokens, whose
  next ones are read while it computes.

  Attributes:
    height: of a tile.
    width: of a tile.
    groups: of programs that share their tokens, one for each tile across.
    programs: of all groups.
  """

  def __init__(
    self, tokens: int, depth: int, width: int, columns: int, programs: int
  ):
    self.height = gpu_kernel.power_of_two_in(tokens, _ROWS)
    self.width = gpu_kernel.power_of_two_in(width, columns)
    self._across, self._down = width // self.width, tokens // self.height
    self.groups = max(1, min(programs // self._across, self._down))
    self.programs = self.groups * self._across
    self._depth = depth

  def of_program(self) -> tuple[jax.Array, jax.Array]:
    """This program's group and columns; to be called outside of loops."""
    program = gpu_kernel.program()
    group, column = program // self._across, program % self._across
    return group, column * self.width + jnp.arange(self.width)

  def depths(self) -> list[jax.Array]:
    """Places that are summed over, in parts that are powers of two."""
    first, found = 0, []
    while first < self._depth:
      count = 1 << ((self._depth - first).bit_length() - 1)
      found.append(first + jnp.arange(count))
      first += count
    return found

  def rows(self, group: jax.Array, i: jax.Array) -> jax.Array:
    """Of a group's i-th tile."""
    row = group + i * self.groups
    return row * self.height + jnp.arange(self.height)

  def rounds(self, group: jax.Array) -> jax.Array | int:
    """Tiles of a group."""
    return gpu_kernel.rounds(self._down, self.groups, group)
