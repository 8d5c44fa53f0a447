"""Our kernels beside XLA's, on the maps of `full`: error and time.

`accelerator.py --cases kernels:16` runs it.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import (
  attention,
  fused_attention,
  fused_layer_norm,
  fused_mlp,
  gelu,
  layer_norm,
  many_arrays,
  windows,
)

# Side and width of the maps in analysis and synthesis.
MAPS = ((128, 128), (64, 192), (32, 256))
_SHIFT = 4
_WINDOW = 8
_HEAD = 32
# Of the arrays that are updated, as large as the codec's.
_SHAPES = ((320, 1280), (1280, 320), (320, 320), (1280,), (320,)) * 40


def cases(batch_size: int) -> Iterator[tuple[str, Callable, Callable, list]]:
  """Yields name, XLA's form, ours, and shapes of the arguments of both."""
  for side, channels in MAPS:
    shape = (batch_size, side, side, channels)
    name = f"{side}x{side}x{channels}"
    yield f"attention {name}", *_attention(shape)
    yield f"normalisation {name}", *_normalisation(shape)
    yield f"mlp {name}", *_mlp(shape)


def compile_all(batch_size: int) -> dict[str, dict[str, tuple]]:
  """Programs by name, and their arguments: "reference" in float32, then pairs."""
  programs = {
    name: _programs(plain, fused, _normal(*shapes))
    for name, plain, fused, shapes in cases(batch_size)
  }
  return programs | {"adam": _adam()}


def with_gradient(function: Callable) -> Callable:
  """The function's value and what its gradient makes of the value's square."""

  def run(*args):
    out, pull = jax.vjp(function, *args)
    return out, pull(jax.tree.map(lambda x: (x * x).astype(x.dtype), out))

  return run


def measure(programs, timed: Callable) -> dict[str, float]:
  """Relative errors, and microseconds of a call."""
  found = {}
  for name, variants in programs.items():
    outs = {k: program(*args) for k, (program, args) in variants.items()}
    for kind in ("plain", "fused"):
      if "reference" in outs:
        found[f"{name}, {kind}, error"] = max(
          jax.tree.leaves(
            jax.tree.map(_relative_error, outs[kind], outs["reference"])
          )
        )
    del outs
    for kind, (program, args) in variants.items():
      if kind == "reference":
        continue

      def several(program=program, args=args):
        for _ in range(20):
          out = program(*args)
        jax.block_until_ready(out)

      several()
      found[f"{name}, {kind}, us"] = min(timed(several, 3)) / 20 * 1e6
  return found


def _programs(plain, fused, args):
  """Forwards alone, and with gradients; maps in bfloat16 but for the reference."""
  narrow = [a.astype(jnp.bfloat16) if a.ndim > 3 else a for a in args]

  def gradient(function):
    return jax.jit(with_gradient(function))

  with jax.default_matmul_precision("highest"):
    reference = gradient(plain).lower(*args).compile()
  return {
    "reference": (reference, args),
    "plain": (gradient(plain).lower(*narrow).compile(), narrow),
    "fused": (gradient(fused).lower(*narrow).compile(), narrow),
    "plain, forward": (jax.jit(plain).lower(*narrow).compile(), narrow),
    "fused, forward": (jax.jit(fused).lower(*narrow).compile(), narrow),
  }


def _normal(*shapes):
  """Random arrays; matrices are scaled as kernels of dense layers are."""
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return [
    jax.random.normal(key, shape) * (shape[0] if len(shape) == 2 else 1) ** -0.5
    for key, shape in zip(keys, shapes, strict=True)
  ]


def _attention(shape):
  *outer, channels = shape
  heads, tokens = channels // _HEAD, _WINDOW**2
  regions = windows.regions(*shape[1:3], _WINDOW, _SHIFT)

  def plain(qkv, bias, position):
    cut = windows.partition(qkv + bias.astype(qkv.dtype), _WINDOW, _SHIFT)
    out = attention.window_attention(cut, position, regions, num_heads=heads)
    return windows.merge(out, _WINDOW, *shape[1:3], _SHIFT)

  def fused(qkv, bias, position):
    return fused_attention.window_attention(
      qkv,
      bias,
      position,
      regions,
      window=_WINDOW,
      shift=_SHIFT,
      num_heads=heads,
    )

  shapes = [(*outer, 3 * channels), (3 * channels,), (heads, tokens, tokens)]
  return plain, fused, shapes


def _normalisation(shape):
  def plain(x, branch, branch_bias, scale, bias):
    x = x + (branch + branch_bias.astype(x.dtype))
    return x, layer_norm.layer_norm(x, scale, bias).astype(x.dtype)

  row = shape[-1:]
  shapes = [shape, shape, row, row, row]
  return plain, fused_layer_norm.layer_norm_of_sum, shapes


def _mlp(shape):
  channels = shape[-1]

  def plain(x, kernel_in, bias_in, kernel_out):
    hidden = x @ kernel_in.astype(x.dtype) + bias_in.astype(x.dtype)
    return gelu.gelu(hidden) @ kernel_out.astype(x.dtype)

  width = 4 * channels
  shapes = [shape, (channels, width), (width,), (width, channels)]
  return plain, fused_mlp.mlp, shapes


def _adam():
  """Updates alone: `_SHAPES` of parameters, moments and gradients."""
  trees = [[jnp.ones(shape) for shape in _SHAPES] for _ in range(4)]

  def new(scalars, param, mean, square, gradient):
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.99 * square + 0.01 * gradient * gradient
    return param - scalars[0] * mean / (jnp.sqrt(square) + 1e-8), mean, square

  def plain(scalars, *trees):
    return [new(scalars, *row) for row in zip(*trees, strict=True)]

  def fused(scalars, *trees):
    return many_arrays.update(new, scalars, trees[:3], trees[3:], name="adam")

  args = (jnp.full(1, 1e-4), *trees)
  return {
    "plain": (jax.jit(plain).lower(*args).compile(), args),
    "fused": (jax.jit(fused).lower(*args).compile(), args),
  }


def _relative_error(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return float(np.linalg.norm(a - b) / np.linalg.norm(b))
