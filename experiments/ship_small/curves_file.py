"""Measurements over the time of training, as CSV and as a picture."""

import csv
import io
from typing import Any

import numpy as np

HEADER = ("seconds", "slice", "stage", "update", "name", "value")
# Panels of the picture, each with those of these curves that there are.
_PANELS = (
  ("loss", ("loss", "d_loss")),
  ("PSNR, dB", ("psnr", "psnr_gan")),
  ("bits per pixel", ("bpp",)),
  (
    "validation PSNR, dB",
    ("sample_psnr", "sample_psnr_alpha_0.00", "sample_psnr_alpha_1.00"),
  ),
  ("validation bits per pixel", ("sample_bpp",)),
  ("accuracy", ("accuracy", "sample_accuracy", "d_accuracy")),
)


class Curves:
  """Rows of `HEADER`; seconds are those of training, over all slices.

  Serves as the metric writer of `panels.Sampler`, too.
  """

  def __init__(self, text: str = ""):
    """Goes on with what `to_csv` gave."""
    rows = list(csv.reader(io.StringIO(text)))[1:]
    self.rows: list[tuple[Any, ...]] = [
      (float(s), int(n), stage, int(update), name, float(value))
      for s, n, stage, update, name, value in rows
    ]
    self._now: tuple[Any, ...] = (0.0, 0, "")

  def at(self, seconds: float, slice_number: int, stage: str) -> None:
    """When and where the next measurements are made."""
    self._now = (round(seconds, 2), slice_number, stage)

  def write_scalars(self, step: int, scalars: dict[str, Any]) -> None:
    """Adds measurements of an update."""
    for name, value in sorted(scalars.items()):
      self.rows.append((*self._now, int(step), name, float(value)))

  def write_images(self, step: int, images: dict[str, Any]) -> None:
    """Pictures are files of their own."""

  def to_csv(self) -> bytes:
    """All rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for *start, value in self.rows:
      writer.writerow((*start, f"{value:.6g}"))
    return text.getvalue().encode()

  def to_png(self) -> bytes | None:
    """Curves against minutes of training; None without matplotlib."""
    try:
      import matplotlib
    except ImportError:
      return None
    matplotlib.use("agg")
    from matplotlib import pyplot

    series: dict[str, dict[str, list[tuple[float, float]]]] = {}
    stages: dict[str, float] = {}
    for seconds, _, stage, _, name, value in self.rows:
      # A stage's loss is not the next one's: a line for each.
      by_stage = series.setdefault(name, {})
      by_stage.setdefault(stage, []).append((seconds / 60, value))
      stages.setdefault(stage, seconds / 60)
    panels = [p for p in _PANELS if any(name in series for name in p[1])]
    figure, axes = pyplot.subplots(
      1, max(1, len(panels)), figsize=(4 * max(1, len(panels)), 3), dpi=80
    )
    for axis, (title, names) in zip(np.atleast_1d(axes), panels, strict=False):
      found = [name for name in names if name in series]
      for i, name in enumerate(found):
        for points in series[name].values():
          axis.plot(*zip(*points, strict=True), color=f"C{i}", linewidth=1)
        axis.lines[-1].set_label(name)
      if len(found) > 1:
        axis.legend(fontsize=7)
      for start in stages.values():
        axis.axvline(start, color="0.8", linewidth=0.8, zorder=0)
      axis.set_title(title, fontsize=9)
      axis.set_xlabel("minutes of training; grey: a stage begins", fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    pyplot.close(figure)
    return buffer.getvalue()
