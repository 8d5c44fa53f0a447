"""Decodes the same files under many ways of computing, and counts agreement.

  python experiments/decode_anywhere/run.py --images KODAK PHOTOGRAPHS

Prints a table: for each way, how many files decode to the symbols that were
encoded, and by how much the scale indices deviate at most from those of the
first way. A GPU is among the ways where JAX finds one.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

WORKER = pathlib.Path(__file__).with_name("worker.py")
ROOT = WORKER.parents[2]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What files withstand by design, of a step of the scale table.
MARGIN = 2.0**-12

# Environment and request of each way to compute.
WAYS = {
  "as encoded": ({}, {"reference": True}),
  "one core, one thread": (
    {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
    {"one_core": True},
  ),
  "XLA optimisation level 0": (
    {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
    {},
  ),
  "a processor with AVX2 only": ({"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}, {}),
  "a processor with SSE4.2 only": (
    {"XLA_FLAGS": "--xla_cpu_max_isa=SSE4_2"},
    {},
  ),
  "float64 enabled": ({"JAX_ENABLE_X64": "1"}, {}),
  "four at a time": ({}, {"batch": 4}),
  "without jit": ({"JAX_DISABLE_JIT": "1"}, {}),
  "noise of margin / 100 on every output": ({}, {"noise": MARGIN / 100}),
  "noise of 0.1 on every output": ({}, {"noise": 0.1}),
}
# Everything else is computed on the CPU, also where there is a GPU.
CPU = {"JAX_PLATFORMS": "cpu"}
GPU = {"a GPU": ({"JAX_PLATFORMS": "cuda"}, {})}


def parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", nargs="+", required=True, metavar="DIR")
  parser.add_argument(
    "--count", type=int, default=100, help="pictures, from the first on"
  )
  parser.add_argument(
    "--models",
    nargs="+",
    default=["experiments/stage1_mse/tiny.safetensors", "small", "full"],
    metavar="MODEL",
    help="model files, or sizes, for which parameters are made up",
  )
  parser.add_argument(
    "--ways", nargs="+", metavar="WAY", help=f"of {', '.join(WAYS)}"
  )
  parser.add_argument(
    "--python",
    nargs="+",
    default=[],
    metavar="FILE",
    help="interpreters with other versions of JAX to decode with",
  )
  parser.add_argument("--gpu", action="store_true", help="decode on one, too")
  parser.add_argument("--json", metavar="FILE", help="write the result there")
  return parser.parse_args()


def work(request: dict, environment: dict, python: str = sys.executable):
  """One process; None and a line on stderr if it fails."""
  paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
  process = subprocess.run(
    [python, str(WORKER), json.dumps(request)],
    env={
      **os.environ,
      **CPU,
      "PYTHONPATH": os.pathsep.join(paths),
      **environment,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  if process.returncode:
    last = process.stderr.strip().splitlines()[-1:]
    print(f"failed: {' '.join(last)}", file=sys.stderr)
    return None
  return json.loads(process.stdout.strip().splitlines()[-1])


def main() -> None:
  args = parse_arguments()
  pictures = [
    str(path)
    for folder in args.images
    for path in sorted(pathlib.Path(folder).iterdir())
    if path.suffix.lower() in SUFFIXES
  ][: args.count]
  ways = {name: WAYS[name] for name in args.ways or WAYS}
  ways |= GPU if args.gpu else {}
  results = []
  for model in args.models:
    with tempfile.TemporaryDirectory() as folder:
      base = {"folder": folder, "model": model}
      coded = work({**base, "task": "encode", "images": pictures}, {})
      if coded is None:
        sys.exit(f"{model}: encoding failed")
      print(
        f"\n{model}: {len(pictures)} pictures, {coded['bpp']:.3f} bpp,"
        f" {100 * coded['rounding']:.2f} % of it for rounding alike"
      )
      print("| way | same symbols | noticed | largest deviation | of margin |")
      print("|---|---|---|---|---|")
      runs = [(name, *way, sys.executable) for name, way in ways.items()]
      runs += [("another Python", {}, {}, python) for python in args.python]
      for name, environment, extra, python in runs:
        found = work({**base, "task": "decode", **extra}, environment, python)
        if found is None:
          continue
        if python != sys.executable:
          name = f"jax {found['jax']}"
        results.append({"model": model, "way": name, **coded, **found})
        print(
          f"| {name} | {found['equal']} of {found['files']} |"
          f" {found['noticed']} | {found['deviation']:.1e} |"
          f" {100 * found['deviation'] / MARGIN:.1f} % |",
          flush=True,
        )
  if args.json:
    pathlib.Path(args.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
  main()
