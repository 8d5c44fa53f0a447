"""What a scene is painted with: noise, masks, shading and a canvas.

Everything is float32 in [0, 1]; a canvas carries the picture and its label
map together, so that the two cannot disagree.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

# Order is the label value. Void is for what has no class (birds).
CLASSES = (
  "void",
  "sky",
  "mountain",
  "water",
  "meadow",
  "sand",
  "path",
  "tree",
  "house",
  "rock",
  "ball",
  "balloon",
  "fence",
  "flower",
)

_FIELD_SIZE = 512
_FIELDS_PER_SLOPE = 3
# The textures are the same in every scene set; scenes differ in which part of
# them they cut, so that painting costs no Fourier transform.
_FIELD_SEED = 20240917


@functools.cache
def _fields(slope):
  """Periodic noise with amplitude spectrum f**-slope, mean 0, deviation 1."""
  rng = np.random.default_rng([_FIELD_SEED, round(100 * slope)])
  rows = np.fft.fftfreq(_FIELD_SIZE)[:, None]
  columns = np.fft.rfftfreq(_FIELD_SIZE)[None, :]
  frequency = np.hypot(rows, columns)
  frequency[0, 0] = np.inf  # no mean
  fields = []
  for _ in range(_FIELDS_PER_SLOPE):
    white = np.fft.rfft2(rng.standard_normal((_FIELD_SIZE, _FIELD_SIZE)))
    field = np.fft.irfft2(white * frequency**-slope, (_FIELD_SIZE,) * 2)
    fields.append((field / field.std()).astype(np.float32))
  return fields


def noise_at(rng, slope, rows, columns):
  """Samples 1/f noise at real positions (in pixels of the field).

  Args:
    rng: np.random.Generator; picks the field and where it starts.
    slope: exponent of the amplitude spectrum; 1 is that of photographs.
    rows: (h, 1) float32.
    columns: (h, w) or (1, w) float32.

  Returns:
    (h, w) float32, mean 0 and deviation about 1.
  """
  field = _fields(slope)[rng.integers(_FIELDS_PER_SLOPE)]
  rows = rows + rng.uniform(0, _FIELD_SIZE)
  columns = columns + rng.uniform(0, _FIELD_SIZE)
  top, left = np.floor(rows), np.floor(columns)
  down, right = rows - top, columns - left
  top = top[:, 0].astype(np.int32) % _FIELD_SIZE
  left = left.astype(np.int32) % _FIELD_SIZE
  # First along the rows, which are few; then along the columns.
  lines = field[top] * (1 - down) + field[(top + 1) % _FIELD_SIZE] * down
  lines = np.concatenate([lines, lines[:, :1]], 1)
  if len(left) == 1:
    return lines[:, left[0]] * (1 - right) + lines[:, left[0] + 1] * right
  place = left + np.arange(len(lines), dtype=np.int32)[:, None] * lines.shape[1]
  flat = lines.ravel()
  return flat[place] * (1 - right) + flat[place + 1] * right


def noise(rng, slope, height, width, stretch=(1.0, 1.0)):
  """1/f noise of (height, width); `stretch` > 1 draws it out (rows, columns)."""
  field = _fields(slope)[rng.integers(_FIELDS_PER_SLOPE)]
  if stretch == (1.0, 1.0):
    rows = (rng.integers(_FIELD_SIZE) + np.arange(height)) % _FIELD_SIZE
    columns = (rng.integers(_FIELD_SIZE) + np.arange(width)) % _FIELD_SIZE
    return field[rows[:, None], columns[None, :]]
  rows = np.arange(height, dtype=np.float32)[:, None] / stretch[0]
  columns = np.arange(width, dtype=np.float32)[None, :] / stretch[1]
  return noise_at(rng, slope, rows, columns)


def smoothstep(low, high, values):
  """0 below `low`, 1 above `high`, a smooth ramp between."""
  ramp = np.clip((values - low) / (high - low), 0.0, 1.0)
  return ramp * ramp * (3.0 - 2.0 * ramp)


def mix(first, second, weight):
  """Colours (..., 3) blended by weight (...) in [0, 1]."""
  weight = np.asarray(weight, np.float32)[..., None]
  first = np.asarray(first, np.float32)
  return first + (np.asarray(second, np.float32) - first) * weight


def polygon(height, width, points):
  """Antialiased mask (height, width) of a polygon of (x, y) points."""
  scale = 4
  image = Image.new("L", (width * scale, height * scale))
  ImageDraw.Draw(image).polygon(
    [(float(x) * scale, float(y) * scale) for x, y in points], fill=255
  )
  mask = image.reduce(scale)
  return np.asarray(mask, np.float32) / 255.0


def grid(height, width):
  """Pixel centres: rows (height, 1) and columns (1, width), float32."""
  rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
  columns = np.arange(width, dtype=np.float32)[None, :] + 0.5
  return rows, columns


def relief(heights, light, strength=1.0):
  """Brightness factor around 1 of a surface lit from `light` (dx, dy)."""
  slope_y, slope_x = np.gradient(heights)
  return 1.0 - strength * (slope_x * light[0] + slope_y * light[1])


class Canvas:
  """A picture and its label map.

  Attributes:
    image: (H, W, 3) float32, about [0, 1].
    label: (H, W) uint8, an index into CLASSES.
  """

  def __init__(self, height, width):
    self.height, self.width = height, width
    self.image = np.zeros((height, width, 3), np.float32)
    self.label = np.zeros((height, width), np.uint8)

  def _window(self, top, left, shape):
    """The part of a patch that lies on the canvas, as slices of both."""
    y0, x0 = max(top, 0), max(left, 0)
    y1 = min(top + shape[0], self.height)
    x1 = min(left + shape[1], self.width)
    if y1 <= y0 or x1 <= x0:
      return None
    here = (slice(y0, y1), slice(x0, x1))
    patch = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    return here, patch

  def paint(self, top, left, mask, colour, name=None):
    """Blends a patch onto the picture and labels what it mostly covers.

    Args:
      top: row of the patch's first row; may lie outside the canvas.
      left: column of the patch's first column.
      mask: (h, w) float32 coverage in [0, 1].
      colour: (3,) or (h, w, 3) float32.
      name: a name of CLASSES; None leaves the label map as it is.
    """
    window = self._window(top, left, mask.shape)
    if window is None:
      return
    here, patch = window
    colour = np.asarray(colour, np.float32)
    if colour.ndim == 3:
      colour = colour[patch]
    mask = mask[patch]
    self.image[here] += (colour - self.image[here]) * mask[..., None]
    if name is not None:
      self.label[here][mask > 0.5] = CLASSES.index(name)

  def shade(self, top, left, mask, factor):
    """Multiplies the picture by `factor` (3,) where mask is 1: a shadow."""
    window = self._window(top, left, mask.shape)
    if window is None:
      return
    here, patch = window
    factor = np.asarray(factor, np.float32)
    self.image[here] *= 1.0 + mask[patch][..., None] * (factor - 1.0)
