"""The result of a comparison as tables in Markdown and as curves."""

import math
import pathlib
from typing import Any

# Told apart by most colour-blind people (Okabe and Ito).
_COLOURS = {
  "JPEG": "#999999",
  "JPEG (optimised)": "#999999",
  "WebP": "#E69F00",
  "AVIF": "#009E73",
  "HEVC": "#CC79A7",
}
_OURS = "#0072B2"
_OUR_STYLES = ("-", "--", ":")
_PANELS = (("psnr", "PSNR (dB)"), ("ms_ssim_db", "MS-SSIM (dB)"))
# Beyond it, ours has nothing to compare.
_LARGEST_BPP = 0.9


def markdown(result: dict[str, Any]) -> str:
  """All tables of a result of `compare.measure`."""
  parts = [
    f"Model {result['model']} ({result['parameters']:,} parameters, file of"
    f" {result['file_bytes']:,} bytes), {result['pictures']} pictures, means,"
    " bytes of whole files. Gradients and detail (high-pass energy, dB) are"
    " relative to the original's: 1 and 0 are as sharp.",
    _curves(result["curves"]),
  ]
  for metric, title in (("psnr", "PSNR"), ("ms_ssim_db", "MS-SSIM in dB")):
    parts.append(
      f"BD-rate, {title}: percent of rate at equal quality, below 0 where ours"
      " takes less; in brackets the qualities that both reach.\n\n"
      + _differences(result["rate_difference"][metric])
    )
  if path := result["alpha_path"]:
    parts.append(_alpha_path(path))
  if result["equal_bytes"]:
    parts.append(
      "Pictures at equal bytes:\n\n"
      + _table(
        ("picture", "codec", "bytes", "PSNR"),
        [
          (r["picture"], r["codec"], f"{r['bytes']:,}", f"{r['psnr']:.2f}")
          for r in result["equal_bytes"]
        ],
      )
    )
  return "\n\n".join(parts) + "\n"


def draw(path: pathlib.Path, result: dict[str, Any]) -> None:
  """Rate-distortion curves; the suffix of `path` is their format."""
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(10, 4.2))
  for axis, (metric, title) in zip(axes, _PANELS, strict=True):
    ours = 0
    for name, points in result["curves"].items():
      shown = [p for p in points if p["bpp"] <= _LARGEST_BPP]
      style = "--" if name == "JPEG (optimised)" else "-"
      width = 1.0
      if name not in _COLOURS:
        style, width = _OUR_STYLES[ours % len(_OUR_STYLES)], 1.8
        ours += 1
      axis.plot(
        [p["bpp"] for p in shown],
        [p[metric] for p in shown],
        color=_COLOURS.get(name, _OURS),
        linestyle=style,
        linewidth=width,
        marker="o",
        markersize=2.5,
        label=name,
      )
    axis.set_xlabel("bits per pixel, whole files", fontsize=8)
    axis.set_title(
      f"{title}, mean of {result['pictures']} pictures", fontsize=9
    )
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25, linewidth=0.5)
  axes[0].legend(fontsize=7, frameon=False)
  figure.tight_layout()
  figure.savefig(path, dpi=110)
  pyplot.close(figure)


def _curves(curves: dict[str, list[dict]]) -> str:
  rows = [
    (
      name,
      "-" if p["quality"] is None else f"{p['quality']:g}",
      f"{p['bpp']:.4f}",
      f"{p['psnr']:.2f}",
      f"{p['ms_ssim']:.4f}",
      f"{p['ms_ssim_db']:.2f}",
      f"{p['gradient']:.3f}",
      f"{p['detail_db']:.2f}",
    )
    for name, points in curves.items()
    for p in points
  ]
  titles = ("codec", "quality", "bpp", "PSNR", "MS-SSIM", "in dB", "gradients")
  return _table((*titles, "detail"), rows)


def _differences(found: dict[str, dict[str, dict]]) -> str:
  anchors = list(next(iter(found.values())))
  rows = []
  for ours, by_anchor in found.items():
    cells = []
    for anchor in anchors:
      percent, (low, high) = (
        by_anchor[anchor]["percent"],
        by_anchor[anchor]["range"],
      )
      cells.append(
        "none in common"
        if percent is None
        else f"{percent:+.1f} % ({low:.1f} to {high:.1f})"
      )
    rows.append((ours, *cells))
  return _table(("", *(f"against {a}" for a in anchors)), rows)


def _alpha_path(path: dict[str, Any]) -> str:
  points = path["points"]
  rows = [
    (f"{p['alpha']:g}", f"{p['psnr']:.3f}", f"{p['gradient']:.4f}")
    for p in points
  ]
  verdict = "never rises"
  if rise := path["largest_rise_db"]:
    verdict = f"rises by at most {rise:.4f} dB a step"
  return (
    f"Alpha at quality {path['quality']}, one and the same file of"
    f" {path['bpp']:.4f} bpp: PSNR {verdict} from alpha 0 to 1,"
    f" which costs {path['span_db']:.3f} dB; its steps differ from one to the next by"
    f" at most {path['largest_bend_db']:.3f} dB.\n\n"
    + _table(("alpha", "PSNR", "gradients"), rows)
  )


def _table(titles, rows) -> str:
  lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
  return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def jsonable(value: Any) -> Any:
  """JSON has no nan and no infinity: null stands for either."""
  if isinstance(value, dict):
    return {str(key): jsonable(v) for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
