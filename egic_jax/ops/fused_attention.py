"""Window attention as one kernel each way, for NVIDIA GPUs.

What `attention.window_attention` does between `windows.partition` and
`windows.merge`, without any of what lies between: a program reads the queries,
keys and values of one head in one window from where they are in the map, cyclic
shift included, and writes what comes of them to the same place. Logits and
weights, twice as many numbers as the map has and of twice the size, never leave
the chip, and the backward pass computes them anew.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import attention, gpu_kernel, sum_rows, windows

# Programs of a kernel, about: some for every processor. Each goes through windows of
# one head, the next of which is read while it computes, and backwards adds up the
# gradients of position bias and bias over them.
_PROGRAMS = 528
_STAGES = 3
_BITS = math.log2(math.e)
# The least side of a matrix that the chip multiplies.
_LEAST_SIDE = 16
# Of a window whose numbers have 32 bits: more would not fit a program's registers.
_MOST_WIDE_TOKENS = 16


def usable(*, window: int, head_width: int, dtype: Any) -> bool:
  """Whether there is a kernel for such windows on the default device.

  Args:
    window: side of a window in tokens.
    head_width: channels of a head.
    dtype: of queries, keys and values; 16 bits, or 32 if windows are small and
      products need not be of full float32, which the kernel has not.
  """
  sides = (window**2, head_width)
  if any(side < _LEAST_SIDE or side & (side - 1) for side in sides):
    return False
  wide = window**2 <= _MOST_WIDE_TOKENS and gpu_kernel.may_round_factors()
  return gpu_kernel.serves("attention", dtype, most_bits=32 if wide else 16)


@functools.partial(
  jax.jit,
  static_argnames=("window", "shift", "num_heads", "devices", "interpret"),
)
def window_attention(
  qkv: jax.Array,
  qkv_bias: jax.Array,
  position_bias: jax.Array,
  regions: np.ndarray | jax.Array | None,
  *,
  window: int,
  shift: int,
  num_heads: int,
  devices: gpu_kernel.Devices = gpu_kernel.ONE_DEVICE,
  interpret: bool = False,
) -> jax.Array:
  """Attention inside the shifted windows of a map.

  Args:
    qkv: (B, H, W, 3 * C), queries, keys and values side by side, heads in order
      within each; without their bias.
    qkv_bias: (3 * C,), added to them.
    position_bias: (num_heads, tokens of a window, likewise).
    regions: as in `attention.window_attention`, of (H, W) completed to whole
      windows.
    window: side of a window in tokens.
    shift: as in `windows.partition`.
    num_heads: number of heads; divides C.
    devices: that share the batch.
    interpret: runs the kernels anywhere, slowly: for tests.

  Returns:
    (B, H, W, C), of qkv's type.
  """
  attend = functools.partial(
    _of_maps,
    window=window,
    shift=shift,
    num_heads=num_heads,
    interpret=interpret,
  )
  return devices.each(attend, (True, False, False, False))(
    qkv,
    qkv_bias,
    position_bias,
    None if regions is None else jnp.asarray(regions),
  )


def _of_maps(
  qkv,
  qkv_bias,
  position_bias,
  regions,
  *,
  window,
  shift,
  num_heads,
  interpret,
):
  batch, height, width, channels = qkv.shape
  rows, columns = (windows.padded_size(n, window) for n in (height, width))
  if (rows, columns) != (height, width):
    missing = ((0, 0), (0, rows - height), (0, columns - width), (0, 0))
    qkv = jnp.pad(qkv, missing)
  settings = _Settings(rows, columns, window, shift, num_heads, interpret)
  out = _attend(
    settings,
    qkv.reshape(-1, channels),
    qkv_bias[None],
    position_bias.astype(gpu_kernel.wide(qkv.dtype)),
    regions,
  )
  out = out.reshape(batch, rows, columns, channels // 3)
  return out[:, :height, :width]


class _Settings(NamedTuple):
  """What is compiled in."""

  rows: int
  columns: int
  window: int
  shift: int
  heads: int
  interpret: bool

  def count(self, qkv: jax.Array) -> int:
    """Windows of a map (tokens, 3 C)."""
    return qkv.shape[0] // self.window**2


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(settings, qkv, qkv_bias, position_bias, regions):
  """(tokens, 3 C), (1, 3 C), (heads, T, T), (windows, T) or None > (tokens, C).

  Weights add up to 1: a bias of keys adds the same to all logits of a query, and
  changes nothing; one of values can as well be added to the result.
  """
  heads, count = settings.heads, settings.count(qkv)
  groups = gpu_kernel.divisor_from(count, min(_PROGRAMS // heads, count))

  def kernel(*refs):
    *inputs, out_ref = refs
    group, head = gpu_kernel.program() // heads, gpu_kernel.program() % heads
    position = inputs[2][head]

    def attend_window(i, _):
      number = group * (count // groups) + i
      window = _Window(settings, inputs, number, head)
      query, key, value = window.read()
      weights, total = window.weights(query, key, lambda: position)
      out = gpu_kernel.dot(weights.astype(value.dtype), value)
      window.store(out_ref, 0, out * (1.0 / total) + window.bias(2))

    jax.lax.fori_loop(0, count // groups, attend_window, None)

  out_shape = (qkv.shape[0], qkv.shape[1] // 3)
  (out,) = gpu_kernel.call(
    kernel,
    groups * heads,
    [jax.ShapeDtypeStruct(out_shape, qkv.dtype)],
    name="window_attention",
    stages=_STAGES,
    interpret=settings.interpret,
  )(*_present(qkv, qkv_bias, position_bias, regions))
  return out


def _forward(settings, qkv, qkv_bias, position_bias, regions):
  out = _attend(settings, qkv, qkv_bias, position_bias, regions)
  return out, (qkv, qkv_bias, position_bias, regions)


def _backward(settings, residuals, gradient):
  qkv, qkv_bias, position_bias, regions = residuals
  heads, head_width = settings.heads, gradient.shape[1] // settings.heads
  count = settings.count(qkv)
  groups = gpu_kernel.divisor_from(count, min(_PROGRAMS // heads, count))
  wide = gpu_kernel.wide(qkv.dtype)

  def kernel(*refs):
    *inputs, gradient_ref, qkv_out_ref, bias_out_ref, position_out_ref = refs
    group, head = gpu_kernel.program() // heads, gpu_kernel.program() % heads

    def add_window(i, sums):
      number = group * (count // groups) + i
      window = _Window(settings, inputs, number, head)
      query, key, value = window.read()
      weights, total = window.weights(query, key, lambda: inputs[2][head])
      weights *= 1.0 / total
      of_out = window.load(gradient_ref, 0)
      of_value = gpu_kernel.dot(
        weights.astype(of_out.dtype), of_out, trans_a=True
      )
      of_weights = gpu_kernel.dot(of_out, value, trans_b=True)
      mean = jnp.sum(of_weights * weights, axis=1, keepdims=True)
      of_logits = weights * (of_weights - mean)
      narrow = of_logits.astype(query.dtype)
      scale = head_width**-0.5
      found = (
        gpu_kernel.dot(narrow, key) * scale,
        gpu_kernel.dot(narrow, query, trans_a=True) * scale,
        of_value,
      )
      of_position, of_query_bias, of_value_bias = sums
      for part, values in enumerate(found):
        window.store(qkv_out_ref, part, values)
      # That of the bias of values is the sum of of_value, which is that of of_out.
      return (
        of_position + of_logits,
        of_query_bias + jnp.sum(found[0], axis=0, keepdims=True),
        of_value_bias + jnp.sum(of_out.astype(wide), axis=0, keepdims=True),
      )

    zeros = jnp.zeros((1, head_width), wide)
    of_position, of_query_bias, of_value_bias = jax.lax.fori_loop(
      0,
      count // groups,
      add_window,
      (jnp.zeros(position_bias.shape[1:], wide), zeros, zeros),
    )
    position_out_ref[group, head] = of_position
    own = _Window(settings, inputs, group * (count // groups), head)
    for part, values in enumerate((of_query_bias, zeros, of_value_bias)):
      gpu_kernel.store(
        bias_out_ref,
        group + jnp.zeros(1, jnp.int32),
        own.channels(bias_out_ref, part),
        values,
      )

  of_qkv, of_bias, of_position = gpu_kernel.call(
    kernel,
    groups * heads,
    [
      jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
      jax.ShapeDtypeStruct((groups, qkv.shape[1]), wide),
      jax.ShapeDtypeStruct((groups, *position_bias.shape), wide),
    ],
    name="window_attention_gradient",
    stages=_STAGES,
    interpret=settings.interpret,
  )(*_present(qkv, qkv_bias, position_bias, regions), gradient)
  of_bias, of_position = sum_rows.sum_rows(
    [of_bias, of_position.reshape(groups, -1)], interpret=settings.interpret
  )
  return (
    of_qkv,
    of_bias[None].astype(qkv_bias.dtype),
    of_position.reshape(position_bias.shape),
    None,
  )


_attend.defvjp(_forward, _backward)


class _Window:
  """One head in one window, as a program of a kernel sees it."""

  def __init__(self, settings, inputs, number, head):
    rows, columns, side, shift, heads, _ = settings
    self._inputs, self._heads, self._head = inputs, heads, head
    across = columns // side
    each = rows // side * across
    image, self._place = number // each, number % each
    token = jnp.arange(side**2)
    row = self._place // across * side + token // side
    column = self._place % across * side + token % side
    row, column = (row + shift) % rows, (column + shift) % columns
    # Of the window's tokens in the map, (T,).
    self._tokens = (image * rows + row) * columns + column

  def channels(self, ref, part: int) -> jax.Array:
    """Of the head in a map of C channels, or of 3 C, in queries, keys, values."""
    parts = 3 if ref.shape[1] == self._inputs[0].shape[1] else 1
    each = ref.shape[1] // (parts * self._heads)
    return (part * self._heads + self._head) * each + jnp.arange(each)

  def load(self, ref, part):
    return gpu_kernel.load(ref, self._tokens, self.channels(ref, part))

  def store(self, ref, part, values):
    gpu_kernel.store(ref, self._tokens, self.channels(ref, part), values)

  def read(self) -> list[jax.Array]:
    """Queries, with their bias, keys and values, without: each (T, d)."""
    query, key, value = (self.load(self._inputs[0], part) for part in range(3))
    return (query + self.bias(0)).astype(query.dtype), key, value

  def bias(self, part) -> jax.Array:
    """Of queries (0), keys (1) or values (2): (1, d)."""
    ref = self._inputs[1]
    zero = jnp.zeros(1, jnp.int32)
    return gpu_kernel.load(ref, zero, self.channels(ref, part))

  def weights(self, query, key, position) -> tuple[jax.Array, jax.Array]:
    """(T, T) float32 or wider, and what each row adds up to, (T, 1).

    `position` gives the position bias, (T, T); called where it is needed, so that
    what is read anew for each window takes no registers before.
    """
    logits = gpu_kernel.dot(query, key, trans_b=True)
    logits = logits * query.shape[1] ** -0.5 + position()
    if len(self._inputs) > 3:
      region = self._inputs[3][self._place]
      visible = region[:, None] == region[None, :]
      logits += jnp.where(visible, 0.0, attention.MASKED_LOGIT)
    # A chip has powers of two, and a product with a sum in one.
    largest = jnp.max(logits, axis=1, keepdims=True) * _BITS
    weights = jnp.exp2(logits * _BITS - largest)
    return weights, jnp.sum(weights, axis=1, keepdims=True)


def _present(*arrays):
  return [array for array in arrays if array is not None]
