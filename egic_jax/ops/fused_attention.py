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

# Programs of a kernel, at most: four for each processor, backwards two. Each goes
# through windows of one head, the next of which is read while it computes, and backwards
# adds up the gradients of position bias and bias over them.
_PROGRAMS, _PROGRAMS_BACK = 528, 264
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

  def groups(self, count: int, programs: int) -> int:
    """Of so many windows, that programs of one head take in turn."""
    return max(1, min(programs // self.heads, count))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(settings, qkv, qkv_bias, position_bias, regions):
  """(tokens, 3 C), (1, 3 C), (heads, T, T), (windows, T) or None > (tokens, C).

  Weights add up to 1: a bias of keys adds the same to all logits of a query, and
  changes nothing; one of values can as well be added to the result.
  """
  (out,) = _outputs(
    settings, qkv, qkv_bias, position_bias, regions, with_norms=False
  )
  return out


def _outputs(settings, qkv, qkv_bias, position_bias, regions, *, with_norms):
  """What `_attend` returns and, if wanted, logarithms of what weights were divided by.

  These are of (windows of the map, heads, T), in bits.
  """
  heads, count = settings.heads, settings.count(qkv)
  groups = settings.groups(count, _PROGRAMS)
  wide = gpu_kernel.wide(qkv.dtype)
  inputs = _operands(qkv, qkv_bias, position_bias, regions)

  def kernel(*refs):
    ins, (out_ref, *norms_refs) = refs[: len(inputs)], refs[len(inputs) :]
    group, head = gpu_kernel.program() // heads, gpu_kernel.program() % heads
    position = ins[2][head]

    def attend_window(i, _):
      number = group + i * groups
      window = _Window(settings, ins, number, head)
      query, key, value = window.read()
      logits = window.logits(query, key, position)
      # A chip has powers of two, and a product with a sum in one.
      largest = jnp.max(logits, axis=1, keepdims=True) * _BITS
      weights = _powers(logits, largest)
      total = jnp.sum(weights, axis=1, keepdims=True)
      out = gpu_kernel.dot(weights.astype(value.dtype), value)
      share, bias = gpu_kernel.reciprocal(total), window.bias(2)
      window.store(out_ref, 0, gpu_kernel.multiply_add(out, share, bias))
      for ref in norms_refs:
        window.store_norms(ref, largest + jnp.log2(total))

    rounds = gpu_kernel.rounds(count, groups, group)
    jax.lax.fori_loop(0, rounds, attend_window, None)

  out_shape = (qkv.shape[0], qkv.shape[1] // 3)
  norms_shape = (count * heads * settings.window**2, 1)
  return gpu_kernel.call(
    kernel,
    groups * heads,
    [
      jax.ShapeDtypeStruct(out_shape, qkv.dtype),
      *[jax.ShapeDtypeStruct(norms_shape, wide)] * with_norms,
    ],
    name="window_attention",
    stages=_STAGES,
    interpret=settings.interpret,
  )(*inputs)


def _forward(settings, *arrays):
  out, norms = _outputs(settings, *arrays, with_norms=True)
  return out, (*arrays, norms)


def _backward(settings, residuals, gradient):
  qkv, qkv_bias, position_bias, regions, norms = residuals
  heads, head_width = settings.heads, gradient.shape[1] // settings.heads
  count = settings.count(qkv)
  groups = settings.groups(count, _PROGRAMS_BACK)
  wide = gpu_kernel.wide(qkv.dtype)

  def kernel(*refs):
    *inputs, norms_ref, gradient_ref = refs[:-3]
    qkv_out_ref, bias_out_ref, position_out_ref = refs[-3:]
    group, head = gpu_kernel.program() // heads, gpu_kernel.program() % heads

    position = inputs[2][head]

    def add_window(i, sums):
      number = group + i * groups
      window = _Window(settings, inputs, number, head)
      query, key, value = window.read()
      norms = window.load_norms(norms_ref)
      weights = _powers(window.logits(query, key, position), norms)
      of_out = window.load(gradient_ref, 0)
      narrow = gpu_kernel.settled(weights.astype(of_out.dtype))
      of_value = gpu_kernel.dot(narrow, of_out, trans_a=True)
      weighted = gpu_kernel.dot(of_out, value, trans_b=True) * weights
      mean = jnp.sum(weighted, axis=1, keepdims=True)
      of_logits = gpu_kernel.multiply_add(weights, -mean, weighted)
      narrow = gpu_kernel.settled(of_logits.astype(query.dtype))
      of_query = gpu_kernel.dot(narrow, key) * head_width**-0.5
      of_key = gpu_kernel.dot(narrow, query, trans_a=True)
      for part, values in enumerate((of_query, of_key, of_value)):
        window.store(qkv_out_ref, part, values)
      found = (of_logits, of_query, of_value)
      return tuple(a + b for a, b in zip(sums, found, strict=True))

    zeros = jnp.zeros((settings.window**2, head_width), wide)
    of_position, of_query, of_value = jax.lax.fori_loop(
      0,
      gpu_kernel.rounds(count, groups, group),
      add_window,
      (jnp.zeros(position_bias.shape[1:], wide), zeros, zeros),
    )
    position_out_ref[group, head] = of_position
    own = _Window(settings, inputs, group, head)
    for part, values in enumerate((of_query, zeros, of_value)):
      gpu_kernel.store(
        bias_out_ref,
        group + jnp.zeros(1, jnp.int32),
        own.channels(bias_out_ref, part),
        jnp.sum(values, axis=0, keepdims=True),
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
  )(*_operands(qkv, qkv_bias, position_bias, regions), norms, gradient)
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
    self._number = number
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
    """Queries, with their bias and divided by sqrt(d), keys, values: each (T, d)."""
    query, key, value = (self.load(self._inputs[0], part) for part in range(3))
    bias, scale = self.bias(0), query.shape[1] ** -0.5
    scaled = gpu_kernel.multiply_add(
      query.astype(gpu_kernel.wide(query.dtype)), scale, bias * scale
    )
    return scaled.astype(query.dtype), key, value

  def bias(self, part) -> jax.Array:
    """Of queries (0), keys (1) or values (2): (1, d)."""
    ref = self._inputs[1]
    zero = jnp.zeros(1, jnp.int32)
    return gpu_kernel.load(ref, zero, self.channels(ref, part))

  def logits(self, query, key, position) -> jax.Array:
    """(T, T), float32 or wider; so is `position`, their bias."""
    logits = gpu_kernel.dot(query, key, trans_b=True) + position
    if len(self._inputs) > 3:

      def masked(logits):
        region = self._inputs[3][self._place]
        visible = region[:, None] == region[None, :]
        return logits + jnp.where(visible, 0.0, attention.MASKED_LOGIT)

      # Most windows are of one region.
      several = self._inputs[4][self._place]
      logits = jax.lax.cond(several > 0, masked, lambda x: x, logits)
    return logits

  def load_norms(self, ref) -> jax.Array:
    """Of the window's tokens: (T, 1)."""
    return gpu_kernel.load(ref, self._norms(), jnp.zeros(1, jnp.int32))

  def store_norms(self, ref, values):
    """Likewise."""
    gpu_kernel.store(ref, self._norms(), jnp.zeros(1, jnp.int32), values)

  def _norms(self):
    tokens = len(self._tokens)
    first = (self._number * self._heads + self._head) * tokens
    return first + jnp.arange(tokens)


def _powers(logits, norms):
  """exp(logits) / 2**norms."""
  return gpu_kernel.exp2(gpu_kernel.multiply_add(logits, _BITS, -norms))


def _operands(qkv, qkv_bias, position_bias, regions):
  """What `_Window` wants: also, of each window, whether it has several regions."""
  if regions is None:
    return [qkv, qkv_bias, position_bias]
  several = jnp.any(regions != regions[:, :1], axis=1).astype(jnp.int32)
  return [qkv, qkv_bias, position_bias, regions, several]
