"""Training steps and coding on one accelerator, beside what it can do at most.

    python benchmarks/accelerator.py                  # all cases
    python benchmarks/accelerator.py --cases ceilings,step:stage1_mse:16

Each case is a process of its own. Two at a time compile, then run one after the
other, each alone on the device. More at a time take longer in all: seven had not
compiled after three and a half minutes where one takes one. Prints a line a case
as soon as it is there; all that was found is in JSON files, one a case. Where a device
is lent by the minute, have steps compiled before, on a machine without one
(`gpu_traffic.py --to FOLDER`, then `--programs FOLDER` here).

Cases: "ceilings"; "kernels:BATCH", our kernels beside XLA; "step:STAGE:BATCH"
and, behind another colon, words joined by "+": plain (no kernels of ours, the entropy model in
float32), no_adam, no_attention, no_layer_norm, no_mlp (one kind less), remat, float32,
muon, a preset's name, profile (which kernels take the time);
"decode:BATCH:PRECISION" (several joined by "+"), and behind another colon a
preset's name.
"""

import argparse
import fcntl
import functools
import json
import os
import pathlib
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

import provenance

DEFAULT_CASES = (
  "ceilings",
  "step:stage1_mse:16:profile",
  "step:stage1_mse:64",
  "step:stage2_gan:16:profile",
  "step:stage2_gan:64",
  "decode:1:float32+bfloat16",
  "decode:16:bfloat16",
  "step:stage1_mse:16:plain",
  "step:stage1_mse:16:remat",
  "kernels:16",
  "step:stage1_mse:16:no_mlp",
)
CROP = 256
SIZE = (512, 768)
_WORKER = "EGIC_BENCHMARK_WORKER"
_PROGRAMS = "EGIC_BENCHMARK_PROGRAMS"


def timed(function, repeats: int) -> list[float]:
  """Seconds of each call; `function` waits for its result."""
  times = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return times


def prepare_ceilings(_):
  """Rates of a large product and of a copy."""
  import jax
  import jax.numpy as jnp

  def product(dtype, side, precision=None):
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    multiply = jax.jit(lambda a: jnp.dot(a, a, precision=precision))
    multiply(a).block_until_ready()

    def run():
      for _ in range(10):
        out = multiply(a)
      out.block_until_ready()

    return lambda: 10 * 2 * side**3 / min(timed(run, 5)) / 1e12

  def copy():
    a = jax.random.normal(jax.random.key(0), (1 << 29,), jnp.float32)
    move = jax.jit(lambda a: a * 1.5)
    move(a).block_until_ready()

    def run():
      for _ in range(10):
        out = move(a)
      out.block_until_ready()

    return 10 * 2 * a.nbytes / min(timed(run, 5)) / 1e12

  on_cpu = jax.default_backend() == "cpu"
  wide, single = (2048, 1024) if on_cpu else (8192, 4096)
  narrow = product(jnp.bfloat16, wide)
  precise = product(jnp.float32, single, "highest")

  def run():
    found = {"bf16_tflops": narrow(), "float32_tflops": precise()}
    if not on_cpu:
      found["copy_tb_per_s"] = copy()
    return found, dict

  return run


def prepare_step(words):
  """A training step of a stage, with random pictures."""
  import jax
  import jax.numpy as jnp
  import matrix_flops
  import numpy as np

  from egic_jax import runtime
  from egic_jax.ops import gpu_kernel

  stage_name, batch_size, *rest = words
  options = set(rest[0].split("+")) if rest else set()
  left_out = {o.removeprefix("no_") for o in options if o.startswith("no_")}
  if left_out:
    kinds = [kind for kind in gpu_kernel.KINDS if kind not in left_out]
    os.environ[gpu_kernel.SWITCH] = ",".join(kinds) or "off"
  batch_size = int(batch_size)
  preset = _preset(options)
  dtype = jnp.float32 if "float32" in options else jnp.bfloat16
  kind = "muon" if "muon" in options else "adam"
  step, make_state = _training(stage_name, preset, dtype, kind, options)
  plain, _ = _training(
    stage_name, preset, dtype, kind, (options | {"plain"}) - {"remat"}
  )
  state, batch = make_state(batch_size)
  key = jax.random.key(0)
  start = time.monotonic()
  compiled = _kept(stage_name, preset, batch_size, options)
  traced = compiling = 0.0
  if compiled is None:
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch, key)
    traced = time.monotonic() - start
    compiled = lowered.compile(
      runtime.COMPILER_OPTIONS.get(jax.default_backend())
    )
    compiling = time.monotonic() - start - traced
  shapes = jax.tree.map(lambda x: jax.typeof(x), (state, batch, key))
  flops = matrix_flops.count(plain, *shapes)
  memory = compiled.memory_analysis()

  def run():
    held = jax.device_put((state, batch))
    current, pictures = held
    for _ in range(3):
      current, metrics = compiled(current, pictures, key)
    jax.block_until_ready(current)
    each, repeats = 5, 6

    def several():
      nonlocal current, metrics
      for _ in range(each):
        current, metrics = compiled(current, pictures, key)
      jax.block_until_ready(current)

    times = timed(several, repeats)
    seconds = statistics.median(times) / each
    found = {
      "seconds": seconds,
      "spread": [min(times) / each, max(times) / each],
      "tflop": flops / 1e12,
      "tflops": flops / seconds / 1e12,
      "crops_per_s": batch_size / seconds,
      "tracing_s": traced,
      "compiling_s": compiling,
      "temporaries_gb": memory.temp_size_in_bytes / 1e9 if memory else 0.0,
      "peak_gb": _peak_gb(),
      "last": {name: float(value) for name, value in metrics.items()},
      "finite": all(bool(np.isfinite(v).all()) for v in metrics.values()),
    }
    profile = "profile" in options
    return (
      found,
      lambda: {"kernels": _profile(several, each)} if profile else {},
    )

  return run


def _kept(stage_name, preset, batch_size, options):
  """The program that `gpu_traffic.py --to` compiled elsewhere, or None."""
  folder = os.environ.get(_PROGRAMS)
  words = options - {"profile", preset}
  if not folder or not words <= {"plain", "remat"}:
    return None
  import training_step
  from jax.experimental import serialize_executable

  path = training_step.kept_program(
    pathlib.Path(folder),
    stage_name,
    preset,
    batch_size,
    **dict.fromkeys(words, True),
  )
  if not path.exists():
    return None
  return serialize_executable.deserialize_and_load(
    *pickle.loads(path.read_bytes())
  )


def _training(stage_name, preset, dtype, kind, options):
  """A step (state, batch, key), and what makes a state and a batch of a size."""
  import dataclasses

  import jax
  import numpy as np
  import training_step

  from egic_jax.models import swin
  from egic_jax.ops import gpu_kernel
  from egic_jax.training import initial, sharding
  from egic_jax.training import state as state_lib

  platform_ = jax.default_backend()
  execution = swin.Execution.of_training(
    platform_, gpu_kernel.ONE_DEVICE, "remat" in options, dtype
  )
  if "plain" in options:
    execution = dataclasses.replace(execution, kernels=None, entropy_dtype=None)
  step, stage, nets, optimizers = training_step.make(
    stage_name,
    preset,
    dtype=swin.activation_dtype(platform_, dtype),
    kind=kind,
    execution=execution,
  )

  def make_state(batch_size):
    rng = np.random.default_rng(0)
    shape = (batch_size, CROP, CROP)
    coarse = rng.integers(0, 256, (batch_size, CROP // 8, CROP // 8, 3))
    batch = {
      "image": np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8),
    }
    if stage.needs_labels:
      batch["label"] = rng.integers(0, 133, shape).astype(np.uint8)
      batch["weight"] = np.ones(shape, np.uint8)
    mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    small = {k: v[:2] for k, v in batch.items()}
    params = initial.complete(
      initial.Start(),
      stage,
      dataclasses.replace(nets, execution=swin.Execution()),
      seed=0,
      batch=sharding.global_batch(small, mesh),
      mesh=mesh,
    )
    params = jax.device_get(params)
    state = jax.device_get(
      jax.jit(
        lambda params: state_lib.create(
          params, {}, stage=stage, optimizers=optimizers
        )
      )(params)
    )
    return state, batch

  return step, make_state


def _preset(options):
  return next((n for n in ("full", "small", "tiny") if n in options), "full")


def _peak_gb():
  import jax

  statistics_ = jax.local_devices()[0].memory_stats() or {}
  return statistics_.get("peak_bytes_in_use", 0) / 1e9


def _profile(function, steps):
  """Milliseconds of a step by kernel, the longest first."""
  import collections

  import jax

  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      function()
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(path))
    times, counts = collections.Counter(), collections.Counter()
    for plane in data.planes:
      if not plane.name.startswith("/device:"):
        continue
      for line in plane.lines:
        if not line.name.startswith("Stream"):
          continue
        for event in line.events:
          times[event.name] += event.duration_ns / 1e6 / steps
          counts[event.name] += 1 / steps
  kernels = [
    [name[:150], round(ms, 4), counts[name]] for name, ms in times.most_common()
  ]
  return {
    "busy_ms": sum(times.values()),
    "launches": sum(counts.values()),
    "kernels": kernels,
  }


def prepare_decode(words):
  """Whole files to pictures, batch by batch, in each precision of synthesis."""
  import numpy as np
  import stand_in

  from egic_jax.bitstream import codec as image_codec

  batch_size, precisions, *rest = words
  batch_size = int(batch_size)
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (SIZE[0] // 16, SIZE[1] // 16, 3))
  image = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
  model = stand_in.model(_preset(set(rest)), image)
  images = np.stack([np.roll(image, 16 * k, 1) for k in range(batch_size)])
  calls, first = {}, {}
  for precision in precisions.split("+"):
    coder = image_codec.ImageCodec.from_model(model, precision)
    start = time.monotonic()
    if batch_size == 1:
      files = [coder.encode(image, 1)]
      encode = functools.partial(coder.encode, image, 1)
      decode = functools.partial(coder.decode, files[0])
    else:
      files = coder.encode_batch(images, 1)
      encode = functools.partial(coder.encode_batch, images, 1)
      decode = functools.partial(coder.decode_batch, files)
    decode()
    first[f"first, {precision}, s"] = time.monotonic() - start
    calls["encode"] = encode
    calls[f"decode, {precision}"] = decode

  def run():
    found = first | {"bpp": 8 * len(files[0]) / float(np.prod(SIZE))}
    for name, function in calls.items():
      function()
      times = timed(function, 15 if batch_size == 1 else 5)
      found[f"{name}, ms"] = 1e3 * statistics.median(times)
      found[f"{name}, spread, ms"] = [1e3 * min(times), 1e3 * max(times)]
      found[f"{name}, images/s"] = batch_size / statistics.median(times)
    symbols = np.concatenate(
      [part.ravel() for part in coder.decode_symbols(files[0]).y]
    )
    found["not_zero"] = float(np.mean(symbols != 0))
    return found, lambda: {"parts_ms": _decode_parts(coder, files[0])}

  return run


def _decode_parts(coder, data):
  """The functions that decoding spends most time in: name, calls, ms."""
  import cProfile
  import pstats

  repeats = 5
  profile = cProfile.Profile()
  profile.enable()
  for _ in range(repeats):
    coder.decode(data)
  profile.disable()
  stats = pstats.Stats(profile).stats
  rows = [
    [f"{pathlib.Path(path).name}:{name}", calls / repeats, 1e3 * own / repeats]
    for (path, _, name), (_, calls, own, _, _) in stats.items()
  ]
  return sorted(rows, key=lambda row: -row[2])[:25]


def prepare_kernels(words):
  """Each kernel of ours and XLA's: error and time."""
  import gpu_kernels

  programs = gpu_kernels.compile_all(int(words[0]))

  def run():
    return gpu_kernels.measure(programs, timed), dict

  return run


PREPARE = {
  "kernels": prepare_kernels,
  "ceilings": prepare_ceilings,
  "step": prepare_step,
  "decode": prepare_decode,
}


def work(case: str, folder: pathlib.Path) -> None:
  """A case's process: compiles, waits for the others, runs alone."""
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
  name, *words = case.split(":")
  place = folder / _file_name(case)
  found = {"case": case}

  def keep():
    temporary = place.with_suffix(".tmp")
    temporary.write_text(json.dumps(found, indent=1))
    temporary.rename(place.with_suffix(".json"))

  try:
    from egic_jax import runtime

    runtime.configure()
    import jax

    device = jax.devices()[0]
    found |= {"device": device.device_kind, "jax": jax.__version__}
    start = time.monotonic()
    run = PREPARE[name](words)
    found["prepared_s"] = time.monotonic() - start
    place.with_suffix(".ready").touch()
    while not (folder / "go").exists():
      time.sleep(0.05)
    with (folder / "lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      measured, then = run()
      found |= measured
      keep()
      # A profiler that hangs must not keep the others from the device.
      signal.alarm(60)
      found |= then()
      signal.alarm(0)
  except Exception as error:
    found["error"] = f"{type(error).__name__}: {str(error)[:600]}"
    found["trace"] = traceback.format_exc()[-2500:]
  keep()
  place.with_suffix(".ready").touch()


def _file_name(case):
  return case.replace(":", "_").replace("+", "_")


def run_together(cases, folder: pathlib.Path, report) -> None:
  """Runs some cases; each leaves a JSON file in the folder."""
  for case in cases:
    for suffix in (".ready", ".json"):
      (folder / _file_name(case)).with_suffix(suffix).unlink(missing_ok=True)
  (folder / "go").unlink(missing_ok=True)
  running = {}
  for case in cases:
    environment = os.environ | {
      _WORKER: str(folder),
      "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    command = [sys.executable, __file__, "--cases", case]
    running[case] = subprocess.Popen(command, env=environment)
  ready = [(folder / _file_name(case)).with_suffix(".ready") for case in cases]
  while running:
    time.sleep(0.2)
    if all(path.exists() for path in ready):
      (folder / "go").touch()
    for case, process in list(running.items()):
      if process.poll() is None:
        continue
      del running[case]
      # One that was killed must not keep the others waiting.
      (folder / _file_name(case)).with_suffix(".ready").touch()
      path = folder / f"{_file_name(case)}.json"
      result = {"case": case, "error": f"ended with {process.returncode}"}
      if path.exists():
        result = json.loads(path.read_text())
      report(_line(result))


def _line(result) -> str:
  words = [f"{result['case']:28}"]
  for key, value in result.items():
    if isinstance(value, float):
      words.append(f"{key} {value:.4g}")
    elif key == "error":
      words.append(value)
  return "  ".join(words)


def main() -> None:
  """Prints a line for each case, and keeps them."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--cases", default=",".join(DEFAULT_CASES))
  parser.add_argument(
    "--to",
    type=pathlib.Path,
    default=pathlib.Path("runs/accelerator"),
    help="folder of JSON files, one a case",
  )
  parser.add_argument(
    "--programs",
    type=pathlib.Path,
    help="folder of steps that `gpu_traffic.py --to` compiled elsewhere",
  )
  parser.add_argument(
    "--at-once", type=int, default=2, help="cases that compile at a time"
  )
  arguments = parser.parse_args()
  folder = os.environ.get(_WORKER)
  if folder:
    work(arguments.cases, pathlib.Path(folder))
    return
  print(f"{os.cpu_count()} processors, {provenance.line()}", flush=True)
  arguments.to.mkdir(parents=True, exist_ok=True)
  if arguments.programs:
    os.environ[_PROGRAMS] = str(arguments.programs)
  cases = arguments.cases.split(",")
  for i in range(0, len(cases), arguments.at_once):
    run_together(
      cases[i : i + arguments.at_once],
      arguments.to,
      lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
  main()
