"""Curves of training runs as one picture, from their TensorBoard event files.

    python experiments/curves.py runs/a runs/b --to curves.png \
        --panel d_real,d_fake --panel validation_miou

One panel a `--panel`, in each all runs; without any, every scalar has one. Needs
matplotlib, and no TensorBoard.
"""

import argparse
import pathlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Told apart by most colour-blind people (Okabe and Ito).
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STYLES = ("-", "--", ":", "-.")

Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def read(workdir: str | pathlib.Path) -> Curves:
  """Scalars of a work directory, over all times that the run was continued.

  Args:
    workdir: of `egic train`.

  Returns:
    Name > (steps, values), in the order of steps. Of a step that was made
    twice, after a run had been killed, the later value.

  Raises:
    ValueError: there are no event files.
  """
  from tensorboardX.proto import event_pb2

  paths = sorted(pathlib.Path(workdir).glob("tensorboard/events*"))
  if not paths:
    raise ValueError(f"{workdir}: no tensorboard/events*; is it a workdir?")
  points: dict[str, dict[int, float]] = {}
  for path in paths:
    for record in _records(path.read_bytes()):
      event = event_pb2.Event.FromString(record)
      for value in event.summary.value:
        if value.HasField("simple_value"):
          points.setdefault(value.tag, {})[event.step] = value.simple_value
  return {
    name: (np.array(sorted(found)), np.array([found[s] for s in sorted(found)]))
    for name, found in points.items()
  }


def _records(data: bytes):
  """TFRecord: length, its checksum, the bytes, theirs; a cut end is left."""
  start = 0
  while start + 12 <= len(data):
    (length,) = struct.unpack_from("<Q", data, start)
    end = start + 12 + length
    if end + 4 > len(data):
      return
    yield data[start + 12 : end]
    start = end + 4


def draw(
  path: str | pathlib.Path,
  runs: Mapping[str, Curves],
  panels: Mapping[str, Sequence[str]],
  *,
  levels: Mapping[str, Mapping[str, float]] | None = None,
  columns: int = 3,
) -> None:
  """Writes a picture of curves against steps.

  Args:
    path: of the picture; its suffix is its format.
    runs: name > what `read` returned.
    panels: title > scalars to show in it; those that a run lacks are left out.
    levels: title > {what: value}, horizontal lines such as chance.
    columns: panels side by side.
  """
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot

  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  figure, axes = pyplot.subplots(
    rows, columns, figsize=(3.6 * columns, 2.5 * rows), squeeze=False
  )
  for axis in axes.flat[len(panels) :]:
    axis.set_visible(False)
  for axis, (title, names) in zip(axes.flat, panels.items(), strict=False):
    for i, (run, curves) in enumerate(runs.items()):
      for j, name in enumerate(names):
        if name not in curves:
          continue
        one_run = len(runs) == 1
        axis.plot(
          *curves[name],
          color=_COLOURS[(j if one_run else i) % len(_COLOURS)],
          linestyle="-" if one_run else _STYLES[j % len(_STYLES)],
          linewidth=1.2,
          label=_label(run, name, one_run, len(names)),
        )
    for what, value in (levels or {}).get(title, {}).items():
      axis.axhline(value, color="#777777", linewidth=1, linestyle=":")
      axis.annotate(
        what,
        (1.0, value),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=7,
        color="#555555",
      )
    axis.set_title(title, fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, linewidth=0.5)
    if len(runs) * len(names) > 1:
      axis.legend(fontsize=7, frameon=False)
  for axis in axes[-1]:
    axis.set_xlabel("step", fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _label(run: str, name: str, one_run: bool, num_names: int) -> str:
  if one_run:
    return name
  return run if num_names == 1 else f"{run}: {name}"


def main() -> None:
  """Draws what the command line says."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("workdirs", nargs="+", metavar="WORKDIR")
  parser.add_argument("--to", required=True, metavar="FILE")
  parser.add_argument(
    "--panel", action="append", metavar="NAMES", help="scalars, with commas"
  )
  args = parser.parse_args()
  runs: dict[str, Any] = {
    pathlib.Path(workdir).name: read(workdir) for workdir in args.workdirs
  }
  names = sorted({name for curves in runs.values() for name in curves})
  draw(args.to, runs, {text: text.split(",") for text in args.panel or names})
  print(args.to)


if __name__ == "__main__":
  main()
