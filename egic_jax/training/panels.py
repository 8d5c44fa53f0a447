"""Sample panels: what the codec makes of a few pictures, side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

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
