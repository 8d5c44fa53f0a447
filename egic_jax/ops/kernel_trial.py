"""Kernels tried on small maps before they are used, beside the plain forms.

They are compiled by what driver, compiler and jax a machine happens to have. Those
that do not compile there, or compute something else, are left to XLA.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from egic_jax.ops import (
  attention,
  fused_attention,
  fused_layer_norm,
  fused_mlp,
  gelu,
  gpu_kernel,
  layer_norm,
  many_arrays,
  space_to_depth,
  windows,
)

# Relative error of a result or gradient, in the Euclidean norm. Rounding of bfloat16
# makes some 0.01; anything that is wrong makes more than this.
_TOLERANCE = 0.05
# Pictures, rows and columns: so many that each program goes through several windows
# or tiles; and, where kernels are interpreted, only more than one window a side.
_MAP, _SMALL_MAP = (8, 64, 96), (2, 16, 24)


class Case(NamedTuple):
  """A kernel, and what it must be equal to.

  Attributes:
    plain: function of arrays.
    fused: the same by kernels.
    shapes: of the arrays. Those of more than three dimensions are maps, and
      may be of a narrower type.
  """

  plain: Callable[..., Any]
  fused: Callable[..., Any]
  shapes: list[tuple[int, ...]]


def leave_out_failing(
  kinds: Sequence[str], agreed: Callable[[bool], bool] = bool
) -> list[str]:
  """Tries kernels, once a process; what is traced later does without those that fail.

  Args:
    kinds: of `gpu_kernel.KINDS`.
    agreed: of whether a kind works here, whether it does on all processes that
      compute together. Called for every kind.

  Returns:
    A line for each kind that would be here, and is left out.
  """
  lines = []
  for kind in kinds:
    here = gpu_kernel.available(kind)
    reason = failure(kind) if here else None
    if agreed(here and reason is None):
      continue
    gpu_kernel.leave_out(kind)
    if here:
      reason = reason or "another process cannot use them"
      lines.append(f"kernels for {kind} are left to XLA: {reason}")
  return lines


@functools.cache
def failure(kind: str, *, interpret: bool = False) -> str | None:
  """Why kernels of a kind are not to be used on this device; None if they are.

  Args:
    kind: one of `gpu_kernel.KINDS`.
    interpret: runs the kernels anywhere, slowly: for tests.
  """
  for case, dtype in _cases(kind, interpret):
    try:
      with jax.default_matmul_precision("default"):
        error = float(_error(case, dtype))
    # Whatever it is, XLA can do without the kernel.
    except Exception as problem:
      text = (str(problem).splitlines() or [""])[0][:120]
      return f"{type(problem).__name__}: {text}"
    # Written so that nan fails as well.
    if not error <= _TOLERANCE:
      return f"what they compute is off by {100 * error:.3g} %"
  return None


def attention_case(
  shape: tuple[int, ...],
  *,
  window: int = 8,
  head_width: int = 32,
  interpret: bool = False,
) -> Case:
  """Shifted windows of a map (B, H, W, C)."""
  *outer, channels = shape
  heads, tokens, shift = channels // head_width, window**2, window // 2
  regions = windows.regions(*shape[1:3], window, shift)

  def plain(qkv, bias, position):
    cut = windows.partition(qkv + bias.astype(qkv.dtype), window, shift)
    out = attention.window_attention(cut, position, regions, num_heads=heads)
    return windows.merge(out, window, *shape[1:3], shift)

  fused = functools.partial(
    fused_attention.window_attention,
    regions=regions,
    window=window,
    shift=shift,
    num_heads=heads,
    interpret=interpret,
  )
  shapes = [(*outer, 3 * channels), (3 * channels,), (heads, tokens, tokens)]
  return Case(plain, fused, shapes)


def layer_norm_case(
  shape: tuple[int, ...], *, is_sum: bool = True, interpret: bool = False
) -> Case:
  """Of a sum (B, H, W, C), or of one map alone."""

  def plain(x, *rest):
    *branch, scale, bias = rest
    if is_sum:
      x = x + (branch[0] + branch[1].astype(x.dtype))
    return x, layer_norm.layer_norm(x, scale, bias).astype(x.dtype)

  def fused(x, *rest):
    parts = rest if is_sum else (None, None, *rest)
    return fused_layer_norm.layer_norm_of_sum(x, *parts, interpret=interpret)

  row = shape[-1:]
  return Case(plain, fused, [shape, *[shape, row] * is_sum, row, row])


def phases_case(
  shape: tuple[int, ...], *, merged: bool, interpret: bool = False
) -> Case:
  """Normalisation between resolutions, of a map (B, H, W, C)."""

  def plain(x, scale, bias):
    x = space_to_depth.merge_phases(x) if merged else x
    x = layer_norm.layer_norm(x, scale, bias).astype(x.dtype)
    return x if merged else space_to_depth.depth_to_space(x)

  fused = functools.partial(
    fused_layer_norm.layer_norm_of_phases, merged=merged, interpret=interpret
  )
  row = ((4 if merged else 1) * shape[-1],)
  return Case(plain, fused, [shape, row, row])


def mlp_case(shape: tuple[int, ...], *, interpret: bool = False) -> Case:
  """Of a map (B, H, W, C)."""
  channels = shape[-1]

  def plain(x, kernel_in, bias_in, kernel_out):
    hidden = x @ kernel_in.astype(x.dtype) + bias_in.astype(x.dtype)
    return gelu.gelu(hidden) @ kernel_out.astype(x.dtype)

  fused = functools.partial(fused_mlp.mlp, interpret=interpret)
  width = 4 * channels
  return Case(
    plain, fused, [shape, (channels, width), (width,), (width, channels)]
  )


def with_gradient(function: Callable) -> Callable:
  """The function's value and what its gradient makes of the value's square."""

  def run(*args):
    out, pull = jax.vjp(function, *args)
    return out, pull(jax.tree.map(lambda x: (x * x).astype(x.dtype), out))

  return run


def normal(shapes: list[tuple[int, ...]]) -> list[jax.Array]:
  """Random arrays; matrices are scaled as kernels of dense layers are."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [
    jax.random.normal(key, shape) * (shape[0] if len(shape) == 2 else 1) ** -0.5
    for key, shape in zip(keys, shapes, strict=True)
  ]


def _cases(kind: str, interpret: bool) -> Iterator[tuple[Case, Any]]:
  """What the codec has of a kind: pairs of a case and the type of maps."""
  outer = _SMALL_MAP if interpret else _MAP
  if kind == "attention":
    yield attention_case((*outer, 64), interpret=interpret), jnp.bfloat16
    # Of the hyperprior.
    small = attention_case((*outer, 64), window=4, interpret=interpret)
    yield small, jnp.float32
  elif kind == "layer_norm":
    yield layer_norm_case((*outer, 64), interpret=interpret), jnp.bfloat16
    alone = layer_norm_case((*outer, 96), is_sum=False, interpret=interpret)
    yield alone, jnp.float32
    for merged in (True, False):
      moved = phases_case((*outer, 64), merged=merged, interpret=interpret)
      yield moved, jnp.bfloat16
  elif kind == "mlp":
    yield mlp_case((*outer, 64), interpret=interpret), jnp.bfloat16
  elif kind == "adam":
    yield _adam_case(interpret), jnp.float32
  else:
    raise ValueError(
      f"there are no kernels {kind}; there are {', '.join(gpu_kernel.KINDS)}"
    )


def _adam_case(interpret):
  """An update of three arrays, and the sum of their squares."""

  def update(scalars, old, beside):
    return (old - scalars[0] * beside / (1 + beside * beside),)

  def plain(*arrays):
    old, beside = arrays[:3], arrays[3:]
    new = [update([0.5], *pair)[0] for pair in zip(old, beside, strict=True)]
    return new, sum(jnp.sum(x * x) for x in old)

  def fused(*arrays):
    (new,) = many_arrays.update(
      update,
      jnp.full(1, 0.5),
      (arrays[:3],),
      (arrays[3:],),
      name="adam",
      interpret=interpret,
    )
    return new, many_arrays.sum_of_squares(arrays[:3], interpret=interpret)

  return Case(plain, fused, [(3,), (40, 70), (2048,)] * 2)


def _error(case: Case, dtype: Any) -> jax.Array:
  """The largest relative error of all results and, of maps, gradients."""
  has_maps = any(len(shape) > 3 for shape in case.shapes)

  @jax.jit
  def compare(*arrays):
    narrow = [x.astype(dtype) if x.ndim > 3 else x for x in arrays]
    fused, plain = case.fused, case.plain
    if has_maps:
      fused, plain = with_gradient(fused), with_gradient(plain)
    found = fused(*narrow)
    with jax.default_matmul_precision("highest"):
      expected = plain(*(x.astype(jnp.float32) for x in narrow))
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    errors = [
      jnp.linalg.norm((a.astype(b.dtype) - b).ravel())
      / jnp.linalg.norm(b.ravel())
      for a, b in pairs
    ]
    return jnp.max(jnp.stack(errors))

  return compare(*normal(case.shapes))
