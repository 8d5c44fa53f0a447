"""Sample panels: what the codec makes of a few pictures, side by side."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageDraw

from egic_jax import images
from egic_jax.evaluation import quality
from egic_jax.training import sharding, steps

_CAPTION_HEIGHT = 14
_GAP = 2


def make_panel(
  rows: Sequence[Sequence[np.ndarray]], captions: Sequence[str]
) -> np.ndarray:
  """Pictures in a grid, each row under its caption.

  Args:
    rows: rows of pictures (H, W, 3) uint8, all of one size.
    captions: one line of text a row.

  Returns:
    (H', W', 3) uint8.

  Raises:
    ValueError: there are not as many captions as rows.
  """
  if len(captions) != len(rows):
    raise ValueError(
      f"captions: got {len(captions)} for {len(rows)} rows; give one a row"
    )
  height, width = rows[0][0].shape[:2]
  columns = max(len(row) for row in rows)
  row_height = _CAPTION_HEIGHT + height + _GAP
  canvas = Image.new(
    "RGB",
    (columns * (width + _GAP) - _GAP, len(rows) * row_height - _GAP),
    "white",
  )
  draw = ImageDraw.Draw(canvas)
  for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
    top = i * row_height
    draw.text((2, top + 1), caption, fill="black")
    for j, picture in enumerate(row):
      canvas.paste(
        Image.fromarray(picture), (j * (width + _GAP), top + _CAPTION_HEIGHT)
      )
  return np.asarray(canvas)


class Sampler:
  """Reconstructs the same pictures again and again, to be looked at."""

  def __init__(self, codec, samples, mesh, directory, writer):
    self._directory = directory
    self._writer = writer
    self._samples = samples
    self._mesh = mesh
    everywhere = sharding.replicated(mesh)
    # Every device does all of them: they are few, and any number fits.
    self._reconstruct = jax.jit(
      steps.make_reconstruct(codec),
      in_shardings=(everywhere, everywhere),
      out_shardings=everywhere,
    )

  def __call__(self, step: int, params: Any) -> str:
    """Writes a panel and its scalars; returns a line for the user."""
    batch = jax.make_array_from_process_local_data(
      sharding.replicated(self._mesh), self._samples
    )
    x_hat, bpp = jax.device_get(self._reconstruct(params, batch))
    psnr = [
      quality.psnr(a, b) for a, b in zip(self._samples, x_hat, strict=True)
    ]
    panel = make_panel(
      [[a, b] for a, b in zip(self._samples, x_hat, strict=True)],
      [
        f"step {step}: original | {b:.3f} bpp {p:.2f} dB"
        for b, p in zip(bpp, psnr, strict=True)
      ],
    )
    path = self._directory / f"step_{step:08d}.png"
    if jax.process_index() == 0:
      self._directory.mkdir(exist_ok=True)
      images.write(path, panel)
    self._writer.write_images(step, {"samples": panel[None]})
    means = {"bpp": float(np.mean(bpp)), "psnr": float(np.mean(psnr))}
    self._writer.write_scalars(
      step, {f"sample_{name}": value for name, value in means.items()}
    )
    return (
      f"samples: {means['bpp']:.3f} bpp (estimated)  {means['psnr']:.2f} dB"
      f"  {path}"
    )
