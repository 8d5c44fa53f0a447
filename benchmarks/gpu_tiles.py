"""Our kernels with other tiles than they have: microseconds, on an NVIDIA GPU.

    python benchmarks/gpu_tiles.py
    python benchmarks/gpu_tiles.py --kernels mlp_in,attention_gradient

Each is compiled for the three largest maps of `full` with some values of the
constants at the top of its module, and timed by jax's profiler: half a minute for
all of them. The first row of each kernel has the constants as they are; "nan" takes
more memory than a processor has.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import math
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import gpu_kernels
import jax
import jax.numpy as jnp

from egic_jax.ops import (
  fused_attention,
  fused_layer_norm,
  fused_mlp,
  gpu_kernel,
  windows,
)

_REPEATS = 5
_HEAD_WIDTH, _WINDOW = 32, 8


class Kernel(NamedTuple):
  """What is tried of a kernel.

  Attributes:
    module: where its constants are.
    names: of these constants.
    rows: their values, one row a variant.
  """

  module: Any
  names: tuple[str, ...]
  rows: tuple[tuple[int, ...], ...]


KERNELS = {
  "mlp_in": Kernel(
    fused_mlp,
    ("_ROWS", "_COLUMNS", "_WARPS", "_STAGES", "_PROGRAMS"),
    (
      (64, 128, 8, 2, 264),
      (64, 128, 8, 4, 264),
      (64, 128, 8, 3, 132),
      (64, 128, 8, 3, 528),
      (64, 128, 4, 3, 264),
      (64, 64, 8, 3, 528),
      (64, 64, 4, 3, 528),
      (128, 64, 8, 3, 264),
      (128, 128, 8, 3, 132),
    ),
  ),
  "mlp_gradient": Kernel(
    fused_mlp,
    ("_ROWS", "_COLUMNS_BACK", "_WARPS_BACK", "_STAGES_BACK", "_PROGRAMS_BACK"),
    (
      (64, 128, 8, 2, 264),
      (64, 128, 8, 4, 264),
      (64, 128, 8, 3, 132),
      (64, 128, 8, 3, 528),
      (64, 64, 8, 3, 264),
      (64, 64, 8, 3, 528),
      (64, 64, 4, 3, 528),
      (64, 64, 4, 3, 264),
      (128, 64, 8, 3, 264),
    ),
  ),
  "attention": Kernel(
    fused_attention,
    ("_PROGRAMS", "_STAGES"),
    ((528, 2), (1056, 3), (2112, 3), (264, 3)),
  ),
  "attention_gradient": Kernel(
    fused_attention,
    ("_PROGRAMS_BACK", "_STAGES"),
    ((132, 3), (396, 3), (528, 3), (264, 4), (264, 2)),
  ),
  "layer_norm": Kernel(
    fused_layer_norm,
    ("_ELEMENTS", "_PER_WARP"),
    ((8192, 512), (1024, 1024), (512, 512)),
  ),
  "layer_norm_gradient": Kernel(
    fused_layer_norm,
    ("_ELEMENTS_BACK", "_PER_WARP_BACK", "_PROGRAMS"),
    (
      (2048, 512, 528),
      (2048, 512, 264),
      (4096, 512, 264),
      (8192, 512, 132),
    ),
  ),
}


def case(kernel: str, batch_size: int, side: int, channels: int):
  """A function that calls the kernel, and shapes and types of its arguments."""
  tokens, narrow, wide = batch_size * side**2, jnp.bfloat16, jnp.float32
  x, row = ((tokens, channels), narrow), ((channels,), wide)
  hidden, width = ((tokens, 4 * channels), narrow), 4 * channels
  settings = fused_layer_norm._Settings(interpret=False)
  if kernel == "mlp_in":
    return (
      lambda *args: fused_mlp._hidden(False, *args, slopes=True),
      [x, ((channels, width), wide), ((width,), wide)],
    )
  if kernel == "mlp_gradient":
    return (
      lambda *args: fused_mlp._of_hidden(False, *args),
      [x, ((width, channels), wide), hidden],
    )
  if kernel == "layer_norm":
    return (
      lambda *args: fused_layer_norm._both(settings, *args),
      [x, x, row, row, row],
    )
  if kernel == "layer_norm_gradient":
    return (
      lambda x, scale, *gradients: fused_layer_norm._gradients(
        settings, x, scale, gradients, 3
      ),
      [x, row, x, x],
    )
  heads, shift = channels // _HEAD_WIDTH, _WINDOW // 2
  settings = fused_attention._Settings(side, side, _WINDOW, shift, heads, False)
  regions = windows.regions(side, side, _WINDOW, shift)
  shapes = [
    ((tokens, 3 * channels), narrow),
    ((1, 3 * channels), wide),
    ((heads, _WINDOW**2, _WINDOW**2), wide),
  ]
  if kernel == "attention":
    return (
      lambda *args: fused_attention._outputs(
        settings, *args, regions, with_norms=True
      ),
      shapes,
    )
  return (
    lambda qkv, bias, position, norms, gradient: fused_attention._backward(
      settings, (qkv, bias, position, jnp.asarray(regions), norms), gradient
    ),
    [*shapes, ((tokens * heads, 1), wide), x],
  )


@contextlib.contextmanager
def _changed(module, **constants):
  before = {name: getattr(module, name) for name in constants}
  try:
    for name, value in constants.items():
      setattr(module, name, value)
    yield
  finally:
    for name, value in before.items():
      setattr(module, name, value)


@contextlib.contextmanager
def _renamed(suffix):
  """Kernels called within get names that tell variants apart in a profile."""
  call = gpu_kernel.call
  with _changed(
    gpu_kernel,
    call=lambda *args, name, **options: call(
      *args, name=f"{name}_{suffix}", **options
    ),
  ):
    yield


def lowered(kernels: list[str], batch_size: int) -> Iterator[tuple]:
  """Yields (kernel, constants, map, suffix of its names, program, arguments)."""
  number = 0
  for name in kernels:
    kernel = KERNELS[name]
    now = tuple(getattr(kernel.module, constant) for constant in kernel.names)
    for values in (now, *(row for row in kernel.rows if row != now)):
      constants = dict(zip(kernel.names, values, strict=True))
      for side, channels in gpu_kernels.MAPS:
        function, shapes = case(name, batch_size, side, channels)
        suffix, number = f"variant{number}", number + 1
        arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
        with _changed(kernel.module, **constants), _renamed(suffix):
          program = jax.jit(function).lower(*arguments)
        yield name, constants, (side, channels), suffix, program, arguments


def _made(arguments, cache):
  """Random numbers for arguments; no two arguments are the same memory."""
  made = []
  for i, argument in enumerate(arguments):
    key = (argument.shape, argument.dtype, i)
    if key not in cache:
      numbers = jax.random.normal(jax.random.key(len(cache)), argument.shape)
      cache[key] = (numbers / 2).astype(argument.dtype)
    made.append(cache[key])
  return made


def _times(programs) -> dict[str, list[float]]:
  """Microseconds of each call of each kernel, by name."""
  cache, found = {}, collections.defaultdict(list)
  for program, arguments in programs:
    jax.block_until_ready(program(*_made(arguments, cache)))
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(_REPEATS):
        for program, arguments in programs:
          out = program(*_made(arguments, cache))
        jax.block_until_ready(out)
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
      if plane.name.startswith("/device:"):
        for line in plane.lines:
          if line.name.startswith("Stream"):
            for event in line.events:
              found[event.name].append(event.duration_ns / 1e3)
  return found


def _compiled(program):
  """None of one that takes more than a processor has."""
  try:
    return program.compile()
  except jax.errors.JaxRuntimeError:
    return None


def main() -> None:
  """Prints a table for each kernel."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kernels", default=",".join(KERNELS))
  parser.add_argument("--batch", type=int, default=16)
  arguments = parser.parse_args()
  if not gpu_kernel.available("mlp"):
    sys.exit("no GPU here that runs these kernels")
  variants = list(lowered(arguments.kernels.split(","), arguments.batch))
  with concurrent.futures.ThreadPoolExecutor() as pool:
    programs = list(pool.map(lambda v: _compiled(v[4]), variants))
  pairs = zip(programs, variants, strict=True)
  times = _times([(p, v[5]) for p, v in pairs if p is not None])
  rows = collections.defaultdict(dict)
  for name, constants, map_, suffix, *_ in variants:
    own = [
      t
      for kernel, ts in times.items()
      if kernel.endswith(f"_{suffix}") and not kernel.startswith("sum_rows")
      for t in ts
    ]
    label = ", ".join(str(value) for value in constants.values())
    rows[name][label, map_] = statistics.median(own) if own else math.nan
  for name, found in rows.items():
    maps = list(dict.fromkeys(map_ for _, map_ in found))
    titles = [f"{side} x {side} x {channels}" for side, channels in maps]
    constants = ", ".join(KERNELS[name].names)
    print(f"\n| {name}: {constants} | {' | '.join(titles)} |")
    print("|---" * (1 + len(maps)) + "|")
    for label in dict.fromkeys(label for label, _ in found):
      cells = [f"{found[label, map_]:.1f}" for map_ in maps]
      print(f"| {label} | {' | '.join(cells)} |")


if __name__ == "__main__":
  main()
