"""Encode, decode and training step of a size, beside the machine's matmul rate.

    python benchmarks/network_speed.py --preset full

Times are medians after a first call that compiles. The rate of a 4096^3 float32
product, measured in the same run, tells how busy and how fast the machine is,
so that figures of different machines and hours can be compared.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import time

from egic_jax import allocator, atomic_files, runtime

runtime.configure()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matrix_flops  # noqa: E402
import numpy as np  # noqa: E402

from egic_jax.bitstream import buckets, model_file, programs  # noqa: E402
from egic_jax.bitstream import codec as image_codec  # noqa: E402
from egic_jax.losses import rate_distortion  # noqa: E402
from egic_jax.models import codec, presets, swin  # noqa: E402
from egic_jax.ops import gpu_kernel  # noqa: E402


def timed(function, *args, repeats: int) -> dict[str, float]:
  """Seconds of the first call, median seconds of the following ones."""
  times = []
  for _ in range(repeats + 1):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - start)
  return {"first": times[0], "median": statistics.median(times[1:])}


def matmul_rate() -> float:
  """GFLOP/s of a 4096^3 float32 product."""
  a = jnp.ones((4096, 4096), jnp.float32)
  product = jax.jit(lambda a: jnp.dot(a, a, precision="highest"))
  seconds = timed(product, a, repeats=3)["median"]
  return 2 * 4096**3 / seconds / 1e9


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
  """Whole files, and the transforms alone."""
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (args.height // 16, args.width // 16, 3))
  image = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
  model = model_file.build_model(config, {"codec": params})
  coder = image_codec.ImageCodec.from_model(model, "float32")
  calls = {"encode": (coder.encode, image)}
  data = coder.encode(image)
  calls["decode"] = (coder.decode, data)
  narrow = image_codec.ImageCodec.from_model(model, "bfloat16")
  calls["encode, bfloat16"] = (narrow.encode, image)
  calls["decode, bfloat16"] = (narrow.decode, data)
  rows = {
    name: timed(*call, repeats=args.repeats) for name, call in calls.items()
  }
  for name, call in networks(config, params, image).items():
    rows[f"  {name}"] = timed(*call, repeats=args.repeats) | {
      "gflop": matrix_flops.count(*call) / 1e9
    }
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

  "compile": seconds of tracing and compiling it, which are part of "first"; of
  reading it, where jax finds it on disk (EGIC_CACHE_DIR).
  """
  step = training_step(config, jnp.dtype(args.dtype))
  params = jax.tree.map(jnp.asarray, params)
  rng = np.random.default_rng(0)
  batch = jnp.asarray(
    rng.random((args.batch, args.crop, args.crop, 3)), jnp.float32
  )
  times = []
  for i in range(args.repeats + 1):
    start = time.perf_counter()
    if not times:  # As `training.loop` does.
      options = runtime.COMPILER_OPTIONS.get(jax.default_backend())
      with allocator.compiling():
        step = step.lower(params, batch, jax.random.key(i)).compile(options)
      allocator.set_crumbs_aside()
      compiled = time.perf_counter() - start
    params = step(params, batch, jax.random.key(i))
    jax.block_until_ready(params)
    times.append(time.perf_counter() - start)
    time.sleep(0.01)  # Temporaries are freed after results are there: 12 GB.
  name = f"training step, {args.batch} x {args.crop} x {args.crop}"
  found = {"first": times[0], "median": statistics.median(times[1:])}
  return {name: found | {"compile": compiled}}


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
  before = matmul_rate()
  rows = {}
  if "coding" in args.parts:
    rows |= time_coding(args, config, params)
  if "training" in args.parts:
    rows |= time_training(args, config, params)
  after = matmul_rate()

  commit = subprocess.run(
    ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
  ).stdout.strip()
  print(
    f"{args.preset}, {args.height} x {args.width}, {jax.devices()[0].device_kind}"
    f" x {os.cpu_count()}, jax {jax.__version__}, Python"
    f" {platform.python_version()}, {datetime.date.today()}, commit {commit}"
  )
  print(
    f"matmul 4096^3 float32: {before:.0f} GFLOP/s before, {after:.0f} after"
  )
  for name, row in rows.items():
    note = f"first call {row['first']:.1f} s"
    if "compile" in row:
      note += f", {row['compile']:.1f} of them tracing and compiling"
    if "gflop" in row:
      gflops = row["gflop"] / row["median"]
      note += f", {row['gflop']:.1f} GFLOP: {gflops:.0f} GFLOP/s"
    print(f"{name:<34} {row['median']:8.3f} s   ({note})")
  if args.json:
    report = {"product_gflops": [before, after], "rows": rows}
    atomic_files.write_bytes(args.json, json.dumps(report, indent=2).encode())


if __name__ == "__main__":
  main()
