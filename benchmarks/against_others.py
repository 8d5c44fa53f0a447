"""Our models beside CompressAI's, on one picture and one machine.

    python benchmarks/against_others.py photo.png --torch-python PYTHON

Encoding and decoding of the whole picture, real entropy coding included, and a
training step (rate and squared error, gradient, Adam; float32); random weights on
both sides. PYTHON is one that has the PyPI
package compressai (1.2.8 was used) and CPU torch; it may be another than this.
Where it has none, its rows are left out, and one line says so. Each row runs in
a process of its own, the calibration (a product of two 4096 x 4096 float32
matrices) in the same process, before and after.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import types

import numpy as np

OURS = ("full", "small", "tiny")
THEIRS = ("mbt2018-mean", "cheng2020-attn")
THREADS = 2
QUALITY = 4
LAMBDA = 0.013
LEARNING_RATE = 1e-4
SIDE = 4096


def timed(call, repeats: int) -> dict[str, float]:
  """Wall and CPU seconds of a call: medians after a first one."""
  call()
  walls, cpus = [], []
  for _ in range(repeats):
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    walls.append(time.perf_counter() - wall)
    cpus.append(time.process_time() - cpu)
  return {"s": statistics.median(walls), "cpu_s": statistics.median(cpus)}


def rate(product) -> float:
  """GFLOP/s of a large product, the best of three."""
  product()
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    product()
    seconds.append(time.perf_counter() - start)
  return 2 * SIDE**3 / min(seconds) / 1e9


def ours(name: str, image: np.ndarray, args) -> dict:
  """Times one of our models."""
  from egic_jax import runtime

  runtime.configure()
  import jax
  import jax.numpy as jnp

  from egic_jax.bitstream import codec as image_codec
  from egic_jax.bitstream import model_file
  from egic_jax.models import codec, presets

  matrix = jnp.ones((SIDE, SIDE))
  multiply = jax.jit(jnp.dot)

  def product():
    multiply(matrix, matrix).block_until_ready()

  found = {"before": rate(product)}
  config = presets.get_preset(name)
  params = codec.init_codec_params(config, 0)
  if "coding" in args.parts:
    model = model_file.build_model(config, {"codec": params})
    coder = image_codec.ImageCodec.from_model(model)
    data = coder.encode(image)
    found["encode"] = timed(lambda: coder.encode(image), args.repeats)
    found["decode"] = timed(lambda: coder.decode(data), args.repeats)
  if "training" in args.parts:
    train = _our_step(config, params, jnp.asarray(_batch(args)))
    found["train"] = timed(train, args.steps)
  return {**found, "after": rate(product), "what": f"jax {jax.__version__}"}


def _our_step(config, params, batch):
  """A stage-1 step as a call: loss, gradient, Adam."""
  import jax
  import jax.numpy as jnp
  import optax

  from egic_jax import allocator, runtime
  from egic_jax.losses import rate_distortion
  from egic_jax.models import codec

  model = codec.Codec(config, jnp.float32)
  adam = optax.adam(LEARNING_RATE)

  def step(params, moments, image, key):
    def loss(params):
      output = model.apply({"params": params}, image, key)
      return rate_distortion.rate_distortion(
        image, output, distortion_weight=LAMBDA, rate_weight=1.0
      )

    gradient, _ = jax.grad(loss, has_aux=True)(params)
    updates, moments = adam.update(gradient, moments, params)
    return optax.apply_updates(params, updates), moments

  params = jax.tree.map(jnp.asarray, params)
  state = [(params, adam.init(params))]
  key = jax.random.key(0)
  with allocator.compiling():
    compiled = (
      jax.jit(step, donate_argnums=(0, 1))
      .lower(*state[0], batch, key)
      .compile(compiler_options=runtime.COMPILER_OPTIONS["cpu"])
    )
  allocator.set_crumbs_aside()

  def train():
    state[0] = jax.block_until_ready(compiled(*state[0], batch, key))

  return train


def theirs(name: str, image: np.ndarray, args) -> dict:
  """Times one of CompressAI's models; ImportError where it is missing."""
  import torch

  compressai = _compressai()
  from compressai.zoo import image_models

  torch.set_num_threads(THREADS)
  torch.manual_seed(0)
  matrix = torch.ones(SIDE, SIDE)
  found = {"before": rate(lambda: matrix @ matrix)}
  network = image_models[name](quality=QUALITY, pretrained=False)
  if "coding" in args.parts:
    network.eval()
    network.update(force=True)
    x = torch.tensor(image).permute(2, 0, 1)[None].float() / 255

    with torch.no_grad():
      coded = network.compress(x)
      found["encode"] = timed(lambda: network.compress(x), args.repeats)
      found["decode"] = timed(
        lambda: network.decompress(coded["strings"], coded["shape"]),
        args.repeats,
      )
  if "training" in args.parts:
    network.train()
    adam = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    batch = torch.from_numpy(_batch(args)).permute(0, 3, 1, 2).contiguous()

    def train():
      adam.zero_grad()
      out = network(batch)
      bits = sum(-torch.log2(p).sum() for p in out["likelihoods"].values())
      bpp = bits / batch[:, 0].numel()
      error = torch.nn.functional.mse_loss(out["x_hat"], batch)
      (LAMBDA * 255**2 * error + bpp).backward()
      adam.step()

    found["train"] = timed(train, args.steps)
  return {
    **found,
    "after": rate(lambda: matrix @ matrix),
    "what": f"compressai {compressai.__version__}, torch {torch.__version__}",
  }


def _compressai():
  try:
    import torchvision  # noqa: F401
  except Exception:
    # torchvision's wheel for CUDA does not load beside torch's for CPUs;
    # compressai wants its transforms for reading data sets only.
    for name in [n for n in sys.modules if n.startswith("torchvision")]:
      del sys.modules[name]
    stub = types.ModuleType("torchvision")
    stub.transforms = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision"] = stub
    sys.modules["torchvision.transforms"] = stub.transforms
  import compressai

  return compressai


def _batch(args) -> np.ndarray:
  shape = (args.batch, args.crop, args.crop, 3)
  return np.random.default_rng(0).random(shape, np.float32)


def in_process(python: str, name: str, args) -> dict | None:
  """A row, or None: it cannot be had, and a line on stderr says why."""
  command = [python, os.path.abspath(__file__), args.picture, "--only", name]
  for option in ("repeats", "steps", "batch", "crop", "parts"):
    command += [f"--{option}", str(getattr(args, option))]
  environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
  try:
    done = subprocess.run(
      command, capture_output=True, text=True, env=environment
    )
  except OSError as error:
    print(f"{name}: left out: {error}", file=sys.stderr)
    return None
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
    print(f"{name}: left out: {last}", file=sys.stderr)
    return None
  return json.loads(done.stdout.splitlines()[-1])


def row(name: str, found: dict) -> str:
  """A line of the table: wall seconds, CPU seconds in brackets."""
  cells = [
    f"{found[part]['s']:.2f} ({found[part]['cpu_s']:.2f})"
    if part in found
    else "-"
    for part in ("encode", "decode", "train")
  ]
  cells.append(f"{found['before']:.0f}, {found['after']:.0f}")
  return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("picture", help="512 x 768 in the published table")
  parser.add_argument(
    "--torch-python",
    default=sys.executable,
    metavar="PYTHON",
    help="one with torch and compressai (default: this one)",
  )
  parser.add_argument("--models", default=",".join((*OURS, *THEIRS)))
  parser.add_argument("--parts", default="coding,training")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--steps", type=int, default=1)
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--crop", type=int, default=256)
  parser.add_argument("--only", help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.only:
    from PIL import Image

    image = np.asarray(Image.open(args.picture).convert("RGB"))
    time_one = ours if args.only in OURS else theirs
    print(json.dumps(time_one(args.only, image, args)))
    return
  print(
    f"{os.cpu_count()} CPU cores, {platform.processor() or platform.machine()},"
    f" {datetime.date.today()}; wall seconds (CPU seconds)\n\n"
    f"| model | encode | decode | training step, {args.batch} x {args.crop}^2"
    " | GFLOP/s before, after |\n|---|---|---|---|---|"
  )
  what = {}
  for name in args.models.split(","):
    python = sys.executable if name in OURS else args.torch_python
    found = in_process(python, name, args)
    if found is not None:
      what[found["what"]] = None
      print(row(name, found), flush=True)
  print(f"\n{'; '.join(what)}")


if __name__ == "__main__":
  main()
