"""Sample panels: what a stage makes of a few pictures, side by side."""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from egic_jax import images
from egic_jax.training import sharding, views

if TYPE_CHECKING:
  # Who brings a writer of their own needs no TensorBoard.
  from egic_jax.training import metrics_writer

_FONT_SIZES = (10, 9, 8)
_LINE_HEIGHT = 12
_MARGIN = 2
_GAP = 2
# Stands between words that belong on one line.
_NO_BREAK = "\u00a0"

_FORMATS = {
  "bpp": "{:.3f} bpp",
  "psnr": "{:.1f} dB",
  "accuracy": "{:.0%} right",
  "fake": "{:.0%} fake",
}


def make_panel(
  rows: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[str]]
) -> np.ndarray:
  """Pictures in a grid, each under its caption.

  Args:
    rows: rows of pictures (H, W, 3) uint8, all of one size.
    captions: a text for each picture, in as many lines as its width asks for.

  Returns:
    (H', W', 3) uint8.

  Raises:
    ValueError: there are not as many captions as pictures.
  """
  if [len(row) for row in rows] != [len(row) for row in captions]:
    raise ValueError(
      f"captions: got {sum(map(len, captions))} for {sum(map(len, rows))}"
      " pictures; give each one"
    )
  height, width = rows[0][0].shape[:2]
  columns = max(len(row) for row in rows)
  room = width - 2 * _MARGIN
  font = _font_for([text for row in captions for text in row], room)
  wrapped = [[_wrap(text, room, font) for text in row] for row in captions]
  lines = max(len(text) for row in wrapped for text in row)
  caption_height = lines * _LINE_HEIGHT + _MARGIN
  row_height = caption_height + height + _GAP
  canvas = Image.new(
    "RGB",
    (columns * (width + _GAP) - _GAP, len(rows) * row_height - _GAP),
    "white",
  )
  for i, row in enumerate(rows):
    for j, picture in enumerate(row):
      left, top = j * (width + _GAP), i * row_height
      title = Image.new("RGB", (width, caption_height), "white")
      for number, line in enumerate(wrapped[i][j]):
        ImageDraw.Draw(title).text(
          (_MARGIN, 1 + number * _LINE_HEIGHT),
          line,
          fill="black",
          font=font,
        )
      canvas.paste(title, (left, top))
      canvas.paste(Image.fromarray(picture), (left, top + caption_height))
  return np.asarray(canvas)


def _font_for(texts: Sequence[str], width: int):
  """The largest legible font in which every word fits, or the smallest."""
  words = [word for text in texts for word in text.split(" ")]
  for size in _FONT_SIZES:
    font = ImageFont.load_default(size)
    if all(_width(word, font) <= width for word in words):
      break
  return font


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
  """Lines of at most *width* pixels; a word wider than that is cut in two."""
  words = text.split(" ")
  lines = [""]
  while words:
    word = words.pop(0)
    longer = f"{lines[-1]} {word}".strip(" ")
    if _width(longer, font) <= width:
      lines[-1] = longer
    elif lines[-1]:
      lines.append("")
      words.insert(0, word)
    else:
      count = len(word)
      while count > 1 and _width(word[:count], font) > width:
        count -= 1
      lines[-1] = word[:count]
      words[:0] = [word[count:]] if word[count:] else []
  return [line.replace(_NO_BREAK, " ") for line in lines]


def _width(line: str, font: ImageFont.FreeTypeFont) -> float:
  return font.getlength(line.replace(_NO_BREAK, " "))


class Sampler:
  """Shows the same pictures again and again, to be looked at."""

  def __init__(
    self,
    view: views.View,
    samples: dict[str, np.ndarray],
    mesh: jax.sharding.Mesh,
    directory: pathlib.Path,
    writer: "metrics_writer.MetricWriter",
  ):
    """Nothing is compiled before the first panel.

    Args:
      view: what to show.
      samples: the batch for it, the same on every process.
      mesh: the devices.
      directory: where panels go.
      writer: where they go as well, with the means of their numbers.
    """
    self._directory = directory
    self._writer = writer
    self._samples = samples
    self._mesh = mesh
    everywhere = sharding.replicated(mesh)
    # Every device does all of them: they are few, and any number fits.
    self._view = jax.jit(
      lambda variables, batch: view(sharding.gathered(variables, mesh), batch),
      in_shardings=(None, everywhere),
      out_shardings=everywhere,
    )

  def __call__(self, step: int, variables: Any) -> str:
    """Writes a panel and its scalars; returns a line for the user."""
    batch = sharding.on_every_device(self._samples, self._mesh)
    # One by one: a dictionary that went through jit comes back sorted.
    pictures, numbers = jax.device_get(self._view(variables, batch))
    titles = sorted(pictures, key=self._rank)
    count = len(batch["image"])
    panel = make_panel(
      [[pictures[title][i] for title in titles] for i in range(count)],
      [[_caption(title, numbers, i) for title in titles] for i in range(count)],
    )
    path = self._directory / f"step_{step:08d}.png"
    if jax.process_index() == 0:
      self._directory.mkdir(exist_ok=True)
      images.write(path, panel)
    self._writer.write_images(step, {"samples": panel[None]})
    means = {name: float(np.mean(values)) for name, values in numbers.items()}
    self._writer.write_scalars(
      step, {_scalar_name(name): value for name, value in means.items()}
    )
    shown = "  ".join(_text(name, value) for name, value in means.items())
    return f"samples: {shown}  {path}"

  @staticmethod
  def _rank(title: str) -> tuple[int, str]:
    known = ("input", "output", "labels")
    place = known.index(title) if title in known else len(known)
    return place, title


def _caption(title: str, numbers: dict[str, np.ndarray], i: int) -> str:
  values = [
    _FORMATS[name.rpartition("/")[2]].format(float(array[i]))
    for name, array in numbers.items()
    if name.rpartition("/")[0] == title
  ]
  return " ".join(part.replace(" ", _NO_BREAK) for part in (title, *values))


def _text(name: str, value: float) -> str:
  title, _, unit = name.rpartition("/")
  text = _FORMATS[unit].format(value)
  return text if title in ("output", "segmentation") else f"{title} {text}"


def _scalar_name(name: str) -> str:
  """ "output/psnr" > "sample_psnr", "alpha 0.00/psnr" > "sample_psnr_alpha_0.00"."""
  title, _, unit = name.rpartition("/")
  if title in ("output", "segmentation"):
    return f"sample_{unit}"
  plain = title.replace(" ", "_").replace("(", "_").replace(")", "")
  return f"sample_{unit}_{plain}"
