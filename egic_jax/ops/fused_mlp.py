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

from egic_jax.ops import gelu, gpu_kernel, linear

# Sides of what a program makes, its warps, and rounds of the sum under way at a time:
# the fastest of a dozen on an H200 (benchmarks/README.md).
_ROWS, _COLUMNS, _COLUMNS_BACK = 64, 128, 64
_WARPS, _WARPS_BACK = 8, 4
_STAGES, _STAGES_BACK = 3, 2
# How much of a sum is taken at a time.
_DEPTH = 64
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
    gpu_kernel.power_of_two_in(channels, _DEPTH),
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
  tile = _Tile(x.shape[0], *kernel_in.shape, _COLUMNS)

  def kernel(x_ref, kernel_ref, bias_ref, *out_refs):
    rows, columns = tile.place()

    def factors(depth):
      return (
        gpu_kernel.load(x_ref, rows, depth),
        gpu_kernel.load(kernel_ref, depth, columns),
      )

    zero = jnp.zeros(1, jnp.int32)
    hidden = tile.sum(factors, x_ref.dtype)
    hidden += gpu_kernel.load(bias_ref, zero, columns).astype(hidden.dtype)
    if slopes:
      outs = gelu.of_kernels_with_slope(hidden)
    else:
      outs = (gelu.of_kernels(hidden),)
    for ref, values in zip(out_refs, outs, strict=True):
      gpu_kernel.store(ref, rows, columns, values)

  shape = jax.ShapeDtypeStruct((x.shape[0], kernel_in.shape[1]), x.dtype)
  return gpu_kernel.call(
    kernel,
    tile.programs,
    [shape] * (2 if slopes else 1),
    name="mlp_in",
    warps=_WARPS,
    stages=_STAGES,
    interpret=interpret,
  )(x, kernel_in.astype(x.dtype), bias_in[None])


def _of_hidden(interpret, gradient, kernel_out, slope):
  """Gradients of the hidden layer before GELU, (tokens, D), and of its bias."""
  width, depth = kernel_out.shape
  tile = _Tile(slope.shape[0], depth, width, _COLUMNS_BACK)
  wide = gpu_kernel.wide(gradient.dtype)

  def kernel(gradient_ref, kernel_ref, slope_ref, out_ref, bias_out_ref):
    rows, columns = tile.place()

    def factors(depth):
      return (
        gpu_kernel.load(gradient_ref, rows, depth),
        gpu_kernel.load(kernel_ref, columns, depth),
      )

    # Asked for before the sum, so that it is there behind it.
    slope = gpu_kernel.load(slope_ref, rows, columns)
    of_active = tile.sum(factors, gradient_ref.dtype, trans_b=True)
    of_hidden = of_active * slope.astype(wide)
    gpu_kernel.store(out_ref, rows, columns, of_hidden)
    gpu_kernel.store(
      bias_out_ref,
      gpu_kernel.program() // tile.across + jnp.zeros(1, jnp.int32),
      columns,
      jnp.sum(of_hidden, axis=0, keepdims=True),
    )

  sums_shape = (slope.shape[0] // tile.rows, slope.shape[1])
  of_hidden, of_bias = gpu_kernel.call(
    kernel,
    tile.programs,
    [
      jax.ShapeDtypeStruct(slope.shape, slope.dtype),
      jax.ShapeDtypeStruct(sums_shape, wide),
    ],
    name="mlp_gradient",
    warps=_WARPS_BACK,
    stages=_STAGES_BACK,
    interpret=interpret,
  )(gradient, kernel_out.astype(gradient.dtype), slope)
  return of_hidden, of_bias.sum(0)


class _Tile:
  """What a program makes of a product of (tokens, depth) and (depth, width)."""

  def __init__(self, tokens: int, depth: int, width: int, columns: int):
    self.rows = gpu_kernel.power_of_two_in(tokens, _ROWS)
    self._columns = gpu_kernel.power_of_two_in(width, columns)
    self._step = gpu_kernel.power_of_two_in(depth, _DEPTH)
    self._depth, self.across = depth, width // self._columns
    # Those that share their rows come one after the other.
    self.programs = tokens // self.rows * self.across

  def place(self):
    """Rows and columns of this program's tile."""
    row, column = (
      gpu_kernel.program() // self.across,
      gpu_kernel.program() % self.across,
    )
    return (
      row * self.rows + jnp.arange(self.rows),
      column * self._columns + jnp.arange(self._columns),
    )

  def sum(self, factors, dtype, **transposed):
    """The tile: the sum over the depth of products of two `factors` of it."""

    def add(i, total):
      depth = i * self._step + jnp.arange(self._step)
      return total + gpu_kernel.dot(*factors(depth), **transposed)

    zeros = jnp.zeros((self.rows, self._columns), gpu_kernel.wide(dtype))
    return jax.lax.fori_loop(0, self._depth // self._step, add, zeros)
