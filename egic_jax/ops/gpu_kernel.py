"""What kernels for NVIDIA GPUs share: whether there can be any, and the call.

They are written in Pallas for its Triton backend, which jax calls experimental:
where it cannot be had, everything is left to XLA.
"""

import contextvars
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

# Which kernels there may be: "on", all; "off", none; or some of KINDS, with commas
# between them. What is left out, XLA does.
SWITCH = "EGIC_KERNELS"
KINDS = ("adam", "attention", "layer_norm", "mlp")
_left_out: set[str] = set()
# Whether the kernel being traced will be interpreted.
_interpreted = contextvars.ContextVar("interpreted", default=True)


@dataclasses.dataclass(frozen=True)
class Devices:
  """What kernels run on: one device, or several that share a batch.

  The compiler can cut up a product between devices, but not a kernel: each runs
  it on its own part.

  Attributes:
    mesh: of several devices; all its axes cut a batch's first one. None: one.
  """

  mesh: Mesh | None = None

  @classmethod
  def of(cls, mesh: Mesh) -> "Devices":
    """Those of a mesh of one or several."""
    return cls(mesh if mesh.size > 1 else None)

  def share(self, batch: int) -> int:
    """Each device's part of so many pictures; 0 if there are no equal ones."""
    count = self.mesh.size if self.mesh else 1
    return 0 if batch % count else batch // count

  def each(
    self,
    function: Callable,
    split: Sequence[bool],
    *,
    split_outputs: bool = True,
  ) -> Callable:
    """The same function, computed by each device of its part.

    Gradients of what is not split are summed over the devices.

    Args:
      function: of as many arrays, or trees of them, as there are entries of
        `split`.
      split: which of them are cut along their first axis.
      split_outputs: whether its outputs are; else they must come out the same
        on all devices.
    """
    if self.mesh is None:
      return function
    part, whole = PartitionSpec(self.mesh.axis_names), PartitionSpec()
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=tuple(part if one else whole for one in split),
      out_specs=part if split_outputs else whole,
      # Of kernels it is not known on which devices results are the same.
      check_vma=False,
    )


ONE_DEVICE = Devices()


def available(kind: str) -> bool:
  """Whether the default device runs kernels of a kind, and may.

  Raises:
    ValueError: the environment asks for kernels that there are not.
  """
  wanted = set(_wanted(os.environ.get(SWITCH) or "on")) - _left_out
  return kind in wanted and _runs(jax.local_devices()[0])


def leave_out(kind: str) -> None:
  """Has this process do without a kind of kernels in all that is traced later."""
  _left_out.add(kind)


@functools.cache
def _wanted(text: str) -> tuple[str, ...]:
  named = text.lower()
  if named in ("on", "off"):
    return KINDS if named == "on" else ()
  kinds = tuple(named.replace(" ", "").split(","))
  if not set(kinds) <= set(KINDS):
    raise ValueError(
      f"{SWITCH}={text}: must be on, off, or some of {', '.join(KINDS)}"
    )
  return kinds


@functools.cache
def _runs(device) -> bool:
  capability = str(getattr(device, "compute_capability", ""))
  # AMD's have names. Ampere (8.0) is the first with products of bfloat16.
  if device.platform != "gpu" or not capability.replace(".", "").isdigit():
    return False
  if float(capability) < 8:
    return False
  try:
    from jax.experimental.pallas import triton  # noqa: F401
  except ImportError:
    return False
  return True


def serves(kind: str, dtype: Any, *, most_bits: int = 16) -> bool:
  """Whether activations of this type are for the kernels of a kind.

  Args:
    kind: one of KINDS.
    dtype: of the activations.
    most_bits: of a type; those with products take 16, as a kernel has no products
      of full float32.
  """
  bits = 8 * jnp.dtype(dtype).itemsize
  return 16 <= bits <= most_bits and available(kind)


def may_round_factors() -> bool:
  """Whether factors of float32 products may be rounded, as GPUs do by default.

  Not where symbols are decided: there the precision asked for is "highest".
  """
  return jax.config.jax_default_matmul_precision in (None, "default")


def call(
  kernel: Callable,
  programs: int,
  shapes: Sequence[jax.ShapeDtypeStruct],
  *,
  name: str,
  warps: int = 4,
  stages: int = 2,
  replaced: Mapping[int, int] | None = None,
  interpret: bool = False,
) -> Callable:
  """`pallas_call` of so many programs, all of which see whole arrays.

  Args:
    kernel: function of the references of inputs and outputs.
    programs: how many.
    shapes: of the outputs.
    name: for profiles.
    warps: of a program, 32 threads each.
    stages: rounds of a loop, products in it, that are under way at a time.
    replaced: input by number to the output that is written over it.
    interpret: runs anywhere, slowly: for tests.

  Returns:
    A function of the inputs, to a list of outputs.
  """
  # Not at the top: what only compresses on a CPU has no use for it.
  from jax.experimental import pallas
  from jax.experimental.pallas import triton

  def traced(*refs):
    token = _interpreted.set(interpret)
    try:
      kernel(*refs)
    finally:
      _interpreted.reset(token)

  return pallas.pallas_call(
    traced,
    grid=(programs,),
    out_shape=list(shapes),
    interpret=interpret,
    input_output_aliases=dict(replaced or {}),
    compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
    name=name,
  )


def program() -> jax.Array:
  """The number of this program."""
  from jax.experimental import pallas

  return pallas.program_id(0)


def load(
  ref: Any, rows: jax.Array, columns: jax.Array, mask: Any = None
) -> jax.Array:
  """ref[rows, columns] of a matrix, (R, C); 0 where `mask` is false.

  Rows and columns are (R,) and (C,), or both (R, C).
  """
  from jax.experimental.pallas import triton

  place = _place(ref, rows, columns)
  if mask is None:
    return triton.load(place)
  return triton.load(place, mask=mask, other=0)


def store(
  ref: Any,
  rows: jax.Array,
  columns: jax.Array,
  values: jax.Array,
  mask: Any = None,
) -> None:
  """ref[rows, columns] = values, of ref's type; places as in `load`."""
  from jax.experimental.pallas import triton

  place = _place(ref, rows, columns)
  triton.store(place, values.astype(ref.dtype), mask=mask)


def _place(ref, rows, columns):
  if rows.ndim == 1:
    rows, columns = rows[:, None], columns[None, :]
  return ref.at[rows, columns]


def load_flat(ref: Any, places: jax.Array, mask: Any = None) -> jax.Array:
  """ref[places] of a vector, (N,); 0 where `mask` is false."""
  from jax.experimental.pallas import triton

  if mask is None:
    return triton.load(ref.at[places])
  return triton.load(ref.at[places], mask=mask, other=0)


def store_flat(
  ref: Any, places: jax.Array, mask: Any, values: jax.Array
) -> None:
  """ref[places] = values, of ref's type, where `mask` is true."""
  from jax.experimental.pallas import triton

  triton.store(ref.at[places], values.astype(ref.dtype), mask=mask)


def when(condition: jax.Array, function: Callable[[], None]) -> None:
  """Has programs for which the condition is true call the function."""
  from jax.experimental import pallas

  pallas.when(condition)(function)


def dot(
  a: jax.Array, b: jax.Array, *, trans_a: bool = False, trans_b: bool = False
) -> jax.Array:
  """Product of two matrices, either transposed first; at least float32."""
  contracted = ((0,) if trans_a else (1,), (1,) if trans_b else (0,))
  return jax.lax.dot_general(
    a, b, (contracted, ((), ())), preferred_element_type=wide(a.dtype)
  )


def multiply_add(
  a: jax.Array, b: jax.Array | float, c: jax.Array | float
) -> jax.Array:
  """a b + c as one instruction, which is rounded once.

  Pallas asks for a product and a sum, each rounded, which compilers must not merge.
  """
  return _instruction("fma.rn.f32 $0, $1, $2, $3;", lambda: a * b + c, a, b, c)


def exp2(x: jax.Array) -> jax.Array:
  """2**x, to 2**-22 of it, as one instruction; 0 below 2**-126."""
  return _instruction("ex2.approx.ftz.f32 $0, $1;", lambda: jnp.exp2(x), x)


def reciprocal(x: jax.Array) -> jax.Array:
  """1 / x, to its last bit, as one instruction."""
  return _instruction("rcp.approx.ftz.f32 $0, $1;", lambda: 1.0 / x, x)


def settled(x: jax.Array) -> jax.Array:
  """x, computed once.

  Of what is transposed, compilers transpose instead what it is computed of, and
  compute it again if it is also wanted as it is: they do not look into loops.
  """
  return jax.lax.fori_loop(0, 1, lambda i, _: x, jnp.zeros_like(x))


def _instruction(text, plain, *args):
  """One of a GPU's for each number; `plain` if interpreted or not of float32."""
  dtype = jnp.result_type(*args)
  if _interpreted.get() or dtype != jnp.float32:
    return plain()
  from jax.experimental.pallas import triton

  args = jnp.broadcast_arrays(*(jnp.asarray(arg, dtype) for arg in args))
  (out,) = triton.elementwise_inline_asm(
    text,
    args=args,
    constraints=",".join(["=f"] + ["f"] * len(args)),
    pack=1,
    result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, dtype)],
  )
  return out


def wide(dtype: Any) -> Any:
  """The type that sums are taken in: float32, or float64 of float64."""
  return jnp.promote_types(dtype, jnp.float32)


def rounds(count: int, groups: int, group: jax.Array) -> jax.Array | int:
  """Of `count` things, how many are `group`, `group` + `groups`, and so on.

  Args:
    count: at least `groups`.
    groups: that share them.
    group: one of them, from 0 on.
  """
  if count % groups == 0:
    return count // groups
  return jax.lax.div(count - 1 - group, jnp.full_like(group, groups)) + 1


def divisor_from(count: int, least: int) -> int:
  """The smallest divisor of `count` that is at least `least`, or `count`."""
  return next((n for n in range(least, count) if count % n == 0), count)


def power_of_two_in(count: int, most: int) -> int:
  """The largest power of two that divides `count`, and is at most `most`."""
  return min(count & -count, most)
