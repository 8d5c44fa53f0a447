"""Time and memory against megapixels, batch and slices, as pictures.

    python benchmarks/growth.py --to docs/pictures/growth.png

Untrained parameters, a picture of noise that is smooth enough to look like one.
Every point is a process of its own, whose largest resident memory is its own,
interpreter and libraries included; seconds are the process's CPU seconds of a
second call (programs compiled), which other work on the machine changes least.
Needs matplotlib. A point that cannot be had is left out, with a line.
"""

import argparse
import datetime
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

AXES = {
  "megapixels": (1, 2, 4, 8, 16),
  "batch": (1, 2, 4, 8),
  "slices": (2, 4, 5, 8, 10, 16),
}
# Of the picture, where another thing than its size grows.
SIZE = (512, 768)
# Told apart by most colour-blind people (Okabe and Ito).
COLOURS = {"encode": "#0072B2", "decode": "#D55E00"}


def measure(preset: str, axis: str, value: int) -> dict[str, float]:
  """Seconds and GB of one point, in this process."""
  from egic_jax import runtime

  runtime.configure()
  import dataclasses

  import numpy as np

  from egic_jax.bitstream import codec as image_codec
  from egic_jax.bitstream import model_file
  from egic_jax.models import codec, presets

  config = presets.get_preset(preset)
  if axis == "slices":
    config = dataclasses.replace(config, num_slices=value, max_support=value)
  height, width = SIZE
  if axis == "megapixels":
    width = {1: 1024, 2: 2048, 4: 2048, 8: 4096, 16: 4096}[value]
    height = value * 2**20 // width
  params = codec.init_codec_params(config, 0)
  model = model_file.build_model(config, {"codec": params})
  coder = image_codec.ImageCodec.from_model(model)
  coarse = np.random.default_rng(0).random((height // 16, width // 16, 3))
  picture = np.kron(coarse * 255, np.ones((16, 16, 1))).astype(np.uint8)
  count = value if axis == "batch" else 1
  pictures = np.repeat(picture[None], count, axis=0)
  found = {}
  files = coder.encode_batch(pictures)
  coder.decode_batch(files)
  for name, call in (
    ("encode", lambda: coder.encode_batch(pictures)),
    ("decode", lambda: coder.decode_batch(files)),
  ):
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    found[name] = time.process_time() - cpu
    found[f"{name}_wall"] = time.perf_counter() - wall
  kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return {**found, "gb": kilobytes / 2**20}


def in_process(preset: str, axis: str, value: int) -> dict | None:
  """A point, or None where it cannot be had."""
  command = [sys.executable, os.path.abspath(__file__)]
  command += ["--point", preset, axis, str(value)]
  done = subprocess.run(command, capture_output=True, text=True)
  if done.returncode:
    last = (done.stderr.strip().splitlines() or ["it failed"])[-1]
    print(f"{preset}, {axis} {value}: left out: {last}", file=sys.stderr)
    return None
  return json.loads(done.stdout.splitlines()[-1])


def draw(path: str, points: dict) -> None:
  """Writes a picture of `points`: preset > axis > value > measurements."""
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot

  axes_shown = [
    axis for axis in AXES if any(axis in p for p in points.values())
  ]
  figure, panels = pyplot.subplots(
    2, len(axes_shown), figsize=(3.4 * len(axes_shown), 5), squeeze=False
  )
  for (above, below), axis in zip(panels.T, axes_shown, strict=True):
    for style, (preset, by_axis) in zip("-:", points.items(), strict=False):
      found = by_axis.get(axis, {})
      options = {"linestyle": style, "linewidth": 1.2, "markersize": 3}
      for name, colour in COLOURS.items():
        above.plot(
          list(found),
          [point[name] for point in found.values()],
          marker="o",
          color=colour,
          label=f"{name}, {preset}",
          **options,
        )
      below.plot(
        list(found),
        [point["gb"] for point in found.values()],
        marker="o",
        color="#009E73",
        label=preset,
        **options,
      )
    above.set_ylabel("CPU seconds", fontsize=8)
    below.set_ylabel("largest resident memory, GB", fontsize=8)
    below.set_xlabel(axis, fontsize=8)
    for panel in (above, below):
      panel.set_ylim(bottom=0)
      panel.tick_params(labelsize=7)
      panel.grid(alpha=0.25, linewidth=0.5)
      panel.legend(fontsize=7, frameon=False)
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def main() -> None:
  """Prints a table and draws it."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", metavar="FILE", help="a picture, .png")
  parser.add_argument("--presets", default="small,tiny", help="at most two")
  parser.add_argument("--axes", default=",".join(AXES))
  parser.add_argument(
    "--table", metavar="FILE", help="JSON of the points; those in it are kept"
  )
  parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.point:
    preset, axis, value = args.point
    print(json.dumps(measure(preset, axis, int(value))))
    return
  print(f"{os.cpu_count()} CPU cores, {datetime.date.today()}\n")
  print("| model | | encode CPU s (wall) | decode CPU s (wall) | GB |")
  print("|---|---|---|---|---|")
  table = pathlib.Path(args.table) if args.table else None
  kept = json.loads(table.read_text()) if table and table.exists() else {}
  points: dict = {}
  for preset in args.presets.split(","):
    for axis in args.axes.split(","):
      for value in AXES[axis]:
        key = f"{preset} {axis} {value}"
        point = kept.get(key) or in_process(preset, axis, value)
        if point is None:
          continue
        kept[key] = point
        if table:
          table.write_text(json.dumps(kept, indent=1))
        points.setdefault(preset, {}).setdefault(axis, {})[value] = point
        cells = [
          f"{point[name]:.2f} ({point[f'{name}_wall']:.2f})"
          for name in ("encode", "decode")
        ]
        print(
          f"| {preset} | {axis} {value} | {' | '.join(cells)} |"
          f" {point['gb']:.2f} |",
          flush=True,
        )
  if args.to:
    draw(args.to, points)


if __name__ == "__main__":
  main()
