"""Time and memory against megapixels, batch and slices, as pictures.

    python benchmarks/growth.py --to docs/pictures/growth.png --table points.json

Untrained parameters, a picture of noise that is smooth enough to look like one.
Every point is a process of its own, whose largest resident memory is its own,
interpreter and libraries included; seconds are the process's CPU seconds of a
second call (programs compiled), which other work on the machine changes least.
Needs matplotlib. A point that cannot be had is left out, with a line; --most
leaves out large ones, and --table keeps points from run to run.
"""

import argparse
import datetime
import importlib.util
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
COLOURS = ("#0072B2", "#D55E00", "#009E73")
STYLES = {"encode": "o-", "decode": "s--"}
# Of an axis's powers of ten; the more it spans, the fewer.
TICKS = {10: (1, 1.5, 2, 3, 5, 7), 100: (1, 2, 5), float("inf"): (1, 3)}
TITLES = {
  "megapixels": "megapixels",
  "batch": "pictures of 512 x 768 at once",
  "slices": "slices, 512 x 768",
}


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


def pixels(axis: str, value: int) -> int:
  """Of all the pictures of a point."""
  if axis == "megapixels":
    return value * 2**20
  return SIZE[0] * SIZE[1] * (value if axis == "batch" else 1)


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
  from matplotlib import pyplot, ticker

  axes_shown = [
    axis for axis in AXES if any(axis in p for p in points.values())
  ]
  figure, panels = pyplot.subplots(
    2,
    len(axes_shown),
    figsize=(3.4 * len(axes_shown), 6),
    squeeze=False,
    sharey="row",
    sharex="col",
  )
  for (above, below), axis in zip(panels.T, axes_shown, strict=True):
    for colour, (preset, by_axis) in zip(COLOURS, points.items(), strict=False):
      found = by_axis.get(axis, {})
      for name, style in STYLES.items():
        above.plot(
          list(found),
          [point[name] for point in found.values()],
          style,
          color=colour,
          label=f"{preset}, {name}",
          linewidth=1.4,
          markersize=4,
        )
      below.plot(
        list(found),
        [point["gb"] for point in found.values()],
        STYLES["encode"],
        color=colour,
        linewidth=1.4,
        markersize=4,
      )
    below.set_xlabel(TITLES[axis])
    for panel in (above, below):
      panel.set_xscale("log", base=2)
      panel.set_xticks(AXES[axis], [str(value) for value in AXES[axis]])
      panel.minorticks_off()
      panel.set_yscale("log")
      low, high = panel.get_ylim()
      digits = next(TICKS[span] for span in TICKS if high / low <= span)
      places = [d * 10.0**power for power in range(-2, 4) for d in digits]
      panel.yaxis.set_major_locator(ticker.FixedLocator(places))
      panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
      panel.yaxis.set_minor_locator(ticker.NullLocator())
      panel.grid(alpha=0.3, linewidth=0.5)
  for values, panel in (
    (AXES[axis], panel)
    for axis, panel in zip(axes_shown, panels[0], strict=True)
    if axis != "slices"
  ):
    _proportional(panel, values)
  panels[0, 0].set_ylabel("CPU seconds")
  panels[1, 0].set_ylabel("largest resident memory, GB")
  handles, labels = panels[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=9
  )
  figure.tight_layout(rect=(0, 0, 1, 0.9))
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _proportional(panel, values) -> None:
  """A thin line of what grows in proportion, below all others."""
  low = min(
    line.get_ydata()[0] for line in panel.lines if len(line.get_ydata())
  )
  panel.plot(
    values,
    [0.6 * low * value / values[0] for value in values],
    ":",
    color="0.4",
    linewidth=1,
    label="in proportion",
    zorder=1,
  )


def main() -> None:
  """Prints a table and draws it."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--to", metavar="FILE", help="a picture, .png")
  parser.add_argument(
    "--presets", default="full,small,tiny", help="at most three"
  )
  parser.add_argument("--axes", default=",".join(AXES))
  parser.add_argument(
    "--most",
    type=float,
    default=16,
    metavar="M",
    help="megapixels that a point may code in all (default: %(default)s)",
  )
  parser.add_argument(
    "--table", metavar="FILE", help="JSON of the points; those in it are kept"
  )
  parser.add_argument("--point", nargs=3, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.point:
    preset, axis, value = args.point
    print(json.dumps(measure(preset, axis, int(value))))
    return
  if args.to and importlib.util.find_spec("matplotlib") is None:
    parser.error("--to needs matplotlib: pip install matplotlib")
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
        point = kept.get(key)
        if point is None and pixels(axis, value) <= args.most * 2**20:
          point = in_process(preset, axis, value)
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
