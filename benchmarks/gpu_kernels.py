"""Our kernels beside XLA's, on the maps of `full`: error and time.

`accelerator.py --cases kernels:16` runs it.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.ops import kernel_trial, many_arrays

# Side and width of the maps in analysis and synthesis.
MAPS = ((128, 128), (64, 192), (32, 256))
# Of the arrays that are updated, as large as the codec's.
_SHAPES = ((320, 1280), (1280, 320), (320, 320), (1280,), (320,)) * 40


def cases(batch_size: int) -> Iterator[tuple[str, kernel_trial.Case]]:
  """Yields names and cases."""
  for side, channels in MAPS:
    shape = (batch_size, side, side, channels)
    name = f"{side}x{side}x{channels}"
    yield f"attention {name}", kernel_trial.attention_case(shape)
    yield f"normalisation {name}", kernel_trial.layer_norm_case(shape)
    yield f"mlp {name}", kernel_trial.mlp_case(shape)


def compile_all(batch_size: int) -> dict[str, dict[str, tuple]]:
  """Programs by name, and their arguments: "reference" in float32, then pairs."""
  programs = {
    name: _programs(case.plain, case.fused, kernel_trial.normal(case.shapes))
    for name, case in cases(batch_size)
  }
  return programs | {"adam": _adam()}


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
    return jax.jit(kernel_trial.with_gradient(function))

  with jax.default_matmul_precision("highest"):
    reference = gradient(plain).lower(*args).compile()
  return {
    "reference": (reference, args),
    "plain": (gradient(plain).lower(*narrow).compile(), narrow),
    "fused": (gradient(fused).lower(*narrow).compile(), narrow),
    "plain, forward": (jax.jit(plain).lower(*narrow).compile(), narrow),
    "fused, forward": (jax.jit(fused).lower(*narrow).compile(), narrow),
  }


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
