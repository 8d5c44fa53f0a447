"""Encode, decode and training step of a size, beside the machine's matmul rate.

    python benchmarks/network_speed.py --preset full

Times are medians of rounds in which everything is called once, after a first
call that compiles or reads programs from disk. A 4096^3 float32 product is called
in every round, too: its rate tells how busy and how fast the machine is, so that
figures of different machines and hours can be compared.
"""

import argparse
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping

from egic_jax import allocator, atomic_files, runtime

runtime.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matrix_flops  # noqa: E402
import numpy as np  # noqa: E402
import provenance  # noqa: E402

from egic_jax.bitstream import buckets, model_file, programs  # noqa: E402
from egic_jax.bitstream import codec as image_codec  # noqa: E402
from egic_jax.losses import rate_distortion  # noqa: E402
from egic_jax.models import codec, presets, swin  # noqa: E402
from egic_jax.ops import gpu_kernel  # noqa: E402

_PRODUCT = "product 4096^3, float32"


def timed(calls: Mapping[str, Callable], repeats: int) -> dict[str, dict]:
  """Seconds of first calls, and medians of the following ones, in rounds.

  A neighbour on the machine who stays for some seconds thus slows down a few
  calls of each function, not all of one.
  """
  times = {name: [] for name in calls}
  for _ in range(repeats + 1):
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - start)
  return {
    name: {"first": first, "median": statistics.median(rest)}
    for name, (first, *rest) in times.items()
  }


def product() -> Callable:
  """A 4096^3 float32 product, as a function without arguments."""
  a = jnp.ones((4096, 4096), jnp.float32)
  multiply = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
  return functools.partial(multiply, a)


def training_step(config, dtype):
  """Gradient of the stage-1 loss and an SGD update: what a step computes."""
  platform = jax.default_backend()
  model = codec.Codec(
    config,
    swin.activation_dtype(platform, dtype),
    swin.Execution.of_training(platform, gpu_kernel.ONE_DEVICE, False, dtype),
  )

  @functools.partial(jax.jit, donate_argnums=0)
  def step(params, image, key):
    def loss(params):
      output = model.apply({"params": params}, image, key)
      return rate_distortion.rate_distortion(
        image, output, distortion_weight=0.00234375, rate_weight=1.0
      )

    gradient, _ = jax.grad(loss, has_aux=True)(params)
    return jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradient)

  return step


def time_coding(args, config, params) -> dict[str, dict[str, float]]:
  """Whole files, and the networks alone."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (args.height // 16, args.width // 16, 3))
  image = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
  model = model_file.build_model(config, {"codec": params})
  coder = image_codec.ImageCodec.from_model(model, "float32")
  data = coder.encode(image)
  narrow = image_codec.ImageCodec.from_model(model, "bfloat16")
  parts = networks(config, params, image)
  calls = {
    _PRODUCT: product(),
    "encode": functools.partial(coder.encode, image),
    "decode": functools.partial(coder.decode, data),
    "encode, bfloat16": functools.partial(narrow.encode, image),
    "decode, bfloat16": functools.partial(narrow.decode, data),
  }
  calls |= {
    f"  {name}": functools.partial(*call) for name, call in parts.items()
  }
  rows = timed(calls, args.repeats)
  for name, call in parts.items():
    rows[f"  {name}"]["gflop"] = matrix_flops.count(*call) / 1e9
  return rows


def networks(config, params, image) -> dict[str, tuple]:
  """What coding a picture runs, each as a function and its arguments."""
  parts = programs.programs(config)
  params = jax.tree.map(jnp.asarray, params)
  image, valid = buckets.place(image[None], config.hyper_stride)
  y = parts.analysis(params, image, valid)
  z = parts.hyper_analysis(params, y, valid)
  means, scales = parts.hyper_synthesis(params, z, valid)

  def slices(params, means, scales, y, valid):
    """Every slice's mean and scale index, given all slices before it."""
    y = jnp.split(y, config.num_slices, axis=-1)
    return [
      parts.slice_parameters(i, params, means, scales, tuple(y[:i]), valid)
      for i in range(config.num_slices)
    ]

  return {
    "analysis": (parts.analysis, params, image, valid),
    "hyper-analysis": (parts.hyper_analysis, params, y, valid),
    "hyper-synthesis": (parts.hyper_synthesis, params, z, valid),
    "slices": (slices, params, means, scales, y, valid),
    "synthesis": (parts.synthesis, params, y, valid),
  }


def time_training(args, config, params) -> dict[str, dict[str, float]]:
  """One step after the other, each on the last one's parameters.

  "compile": seconds of tracing and compiling it; of reading it, where jax finds
  it on disk (EGIC_CACHE_DIR).
  """
  step = training_step(config, jnp.dtype(args.dtype))
  params = jax.tree.map(jnp.asarray, params)
  rng = np.random.default_rng(0)
  batch = jnp.asarray(
    rng.random((args.batch, args.crop, args.crop, 3)), jnp.float32
  )
  start = time.perf_counter()
  options = runtime.COMPILER_OPTIONS.get(jax.default_backend())
  with allocator.compiling():  # As `training.loop` does.
    step = step.lower(params, batch, jax.random.key(0)).compile(options)
  allocator.set_crumbs_aside()
  compiled = time.perf_counter() - start

  def update():
    nonlocal params
    params = step(params, batch, jax.random.key(0))
    return params

  def pause():
    time.sleep(0.01)  # Temporaries are freed after results are there: 12 GB.

  name = f"training step, {args.batch} x {args.crop} x {args.crop}"
  calls = {_PRODUCT: product(), name: update, "pause": pause}
  rows = timed(calls, args.repeats)
  del rows["pause"]
  rows[name]["compile"] = compiled
  return rows


def main() -> None:
  """Prints a table; the same figures as JSON where that is wanted."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--preset", default="full")
  parser.add_argument("--height", type=int, default=512)
  parser.add_argument("--width", type=int, default=768)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--crop", type=int, default=256)
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--parts", default="coding,training")
  parser.add_argument("--json", metavar="FILE")
  args = parser.parse_args()

  config = presets.get_preset(args.preset)
  params = codec.init_codec_params(config, 0)
  print(
    f"{args.preset}, {args.height} x {args.width}, {jax.devices()[0].device_kind}"
    f" x {os.cpu_count()}, jax {jax.__version__}, {provenance.line()}"
  )
  rows = {}
  for part, measure in (("coding", time_coding), ("training", time_training)):
    if part not in args.parts:
      continue
    found = measure(args, config, params)
    found[_PRODUCT]["gflop"] = 2 * 4096**3 / 1e9
    for name, row in found.items():
      note = f"first call {row['first']:.1f} s"
      if "compile" in row:
        note += f", before it {row['compile']:.1f} s of tracing and compiling"
      if "gflop" in row:
        gflops = row["gflop"] / row["median"]
        note += f", {row['gflop']:.1f} GFLOP: {gflops:.0f} GFLOP/s"
      print(f"{name:<34} {row['median']:8.3f} s   ({note})", flush=True)
    rows[part] = found
  if args.json:
    atomic_files.write_bytes(args.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
  main()
