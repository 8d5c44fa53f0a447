"""Crops, flips and scales: one geometry for a picture and all its maps."""

import dataclasses

import grain
import numpy as np
from PIL import Image

from egic_jax.data import color

# How a map follows the geometry: (resampling, value beyond the picture; None
# for the transformation's `padding`). Another per-pixel map is another line.
_MAPS = {
  "image": (Image.Resampling.BICUBIC, None),
  "label": (Image.Resampling.NEAREST, 0),
  "weight": (Image.Resampling.NEAREST, 0),
}
PADDINGS = ("reflect", "mean")
# Of ImageNet, the customary mean pixel; RGB.
_MEAN_PIXEL = (124, 116, 104)


def cut(
  element: dict,
  *,
  top: int,
  left: int,
  crop_size: int,
  scaled_shape: tuple[int, int] | None = None,
  flip: bool = False,
  padding: str = "reflect",
) -> dict:
  """Cuts the same square out of a picture and its maps.

  The picture is thought of as scaled to `scaled_shape`; only what is cut is
  resampled (bicubic, antialiased; the other maps by nearest neighbour). Where
  the square reaches beyond the picture, the picture is mirrored (or filled with
  the mean pixel), the label is void and the weight 0.

  Args:
    element: {"image": (H, W, 3) uint8, "label": (H, W) uint8, "weight": (H, W)
      uint8}, any of them. Entries that are not maps are dropped.
    top: first row of the square in the scaled picture; may be negative.
    left: first column of the square; may be negative.
    crop_size: side of the square, pixels.
    scaled_shape: (height, width); None for the picture's own.
    flip: mirror the square horizontally.
    padding: "reflect" or "mean".

  Returns:
    {"image": (crop_size, crop_size, 3) uint8, "label": (crop_size, crop_size)
    uint8, "weight": the same}, contiguous copies.
  """
  result = {}
  for name, (resampling, fill) in _MAPS.items():
    if name not in element:
      continue
    array = element[name]
    height, width = scaled_shape or array.shape[:2]
    y0, y1 = max(top, 0), min(top + crop_size, height)
    x0, x1 = max(left, 0), min(left + crop_size, width)
    part = _scaled_part(array, (height, width), (y0, y1, x0, x1), resampling)
    margins = (
      (y0 - top, top + crop_size - y1),
      (x0 - left, left + crop_size - x1),
    )
    part = _pad(part, margins, fill, padding)
    result[name] = np.array(part[:, ::-1] if flip else part, order="C")
  return result


def _scaled_part(array, scaled_shape, window, resampling):
  """array scaled to scaled_shape, of which only the window is computed."""
  y0, y1, x0, x1 = window
  if scaled_shape == array.shape[:2]:
    return array[y0:y1, x0:x1]
  ratio_y = array.shape[0] / scaled_shape[0]
  ratio_x = array.shape[1] / scaled_shape[1]
  box = np.array([x0 * ratio_x, y0 * ratio_y, x1 * ratio_x, y1 * ratio_y])
  # Pillow copies its whole input; give it what the filter can reach.
  reach_y, reach_x = 3 + int(2 * ratio_y), 3 + int(2 * ratio_x)
  a, b = max(int(box[1]) - reach_y, 0), max(int(box[0]) - reach_x, 0)
  source = array[a : int(box[3]) + reach_y, b : int(box[2]) + reach_x]
  box -= [b, a, b, a]
  # Rounding must not push the box over the edge of the picture.
  limits = [source.shape[1], source.shape[0]] * 2
  box = tuple(np.clip(box, 0, limits).tolist())
  image = Image.fromarray(np.ascontiguousarray(source))
  return np.asarray(image.resize((x1 - x0, y1 - y0), resampling, box=box))


def _pad(part, margins, fill, padding):
  if not np.any(margins):
    return part
  margins = (*margins, (0, 0))[: part.ndim]
  if fill is not None:
    return np.pad(part, margins, constant_values=fill)
  if padding == "reflect":
    return np.pad(part, margins, mode="reflect")
  (above, _), (before, _) = margins[:2]
  shape = tuple(n + sum(m) for n, m in zip(part.shape, margins, strict=True))
  padded = np.broadcast_to(np.uint8(_MEAN_PIXEL), shape).copy()
  padded[above : above + part.shape[0], before : before + part.shape[1]] = part
  return padded


@dataclasses.dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
  """A random square of a randomly scaled, randomly mirrored picture.

  Smaller pictures lie anywhere inside the square and are padded; unless
  longer_side says so they are not enlarged: a codec is to learn the sharpness
  of photographs. Padded label pixels are void, so that no loss on labels sees
  them.

  Attributes:
    crop_size: side of the square, pixels.
    scale_range: (least, greatest) scale of the picture before the crop.
    scale_step: the scale is a multiple of it above the least; 0 for any value.
    flip: mirror every other picture horizontally.
    padding: "reflect" or "mean", see cut.
    longer_side: scales are relative to a picture of this longer side, whatever
      its own; None for relative to its own. One resampling does both.
    color_policy: a name in color.POLICIES; "" leaves colours alone. Crops,
      scales and flips are the same with and without.
  """

  crop_size: int
  scale_range: tuple[float, float] = (1.0, 1.0)
  scale_step: float = 0.0
  flip: bool = True
  padding: str = "reflect"
  longer_side: int | None = None
  color_policy: str = ""

  def __post_init__(self):
    _check_crop(self.crop_size, self.padding, self.longer_side)
    if self.color_policy and self.color_policy not in color.POLICIES:
      raise ValueError(
        f"color_policy = {self.color_policy!r} is not one of"
        f" {list(color.POLICIES)}, nor '' for none"
      )
    low, high = self.scale_range
    if not 0 < low <= high:
      raise ValueError(
        f"scale_range = {self.scale_range}: expected 0 < least <= greatest"
      )
    if self.scale_step < 0:
      raise ValueError(f"scale_step = {self.scale_step} is negative")

  def random_map(self, element: dict, rng: np.random.Generator) -> dict:
    """One crop of {"image", "label", "weight"}, drawn with `rng`; see cut."""
    shape = next(iter(element.values())).shape
    height, width = _scaled_shape(shape, self._scale(rng), self.longer_side)
    spare_y, spare_x = height - self.crop_size, width - self.crop_size
    square = {
      "top": int(rng.integers(min(0, spare_y), max(0, spare_y) + 1)),
      "left": int(rng.integers(min(0, spare_x), max(0, spare_x) + 1)),
      "crop_size": self.crop_size,
      "scaled_shape": (height, width),
      "flip": self.flip and bool(rng.integers(2)),
      "padding": self.padding,
    }
    if self.color_policy:
      # The whole picture: some operations depend on all of its colours.
      policy = color.POLICIES[self.color_policy]
      image = color.apply_policy(element["image"], policy, rng)
      element = {**element, "image": image}
    return cut(element, **square)

  def _scale(self, rng):
    low, high = self.scale_range
    if low == high:
      return low
    if self.scale_step:
      steps = int((high - low) / self.scale_step + 1e-6)
      return low + self.scale_step * int(rng.integers(steps + 1))
    return float(rng.uniform(low, high))


def centre_crop(
  element: dict,
  crop_size: int,
  padding: str = "reflect",
  longer_side: int | None = None,
) -> dict:
  """The middle square, padded if the picture is smaller.

  Args:
    element: see cut.
    crop_size: side of the square, pixels.
    padding: see cut.
    longer_side: the picture is scaled to it first; None for not at all.

  Returns:
    See cut.
  """
  _check_crop(crop_size, padding, longer_side)
  shape = next(iter(element.values())).shape
  height, width = _scaled_shape(shape, 1.0, longer_side)
  return cut(
    element,
    top=(height - crop_size) // 2,
    left=(width - crop_size) // 2,
    crop_size=crop_size,
    scaled_shape=(height, width),
    padding=padding,
  )


def _scaled_shape(shape, scale, longer_side):
  height, width = shape[:2]
  if longer_side is not None:
    scale *= longer_side / max(height, width)
  return max(1, round(height * scale)), max(1, round(width * scale))


def _check_crop(crop_size, padding, longer_side):
  if crop_size < 1:
    raise ValueError(f"crop_size = {crop_size} is not a positive number")
  if padding not in PADDINGS:
    raise ValueError(f"padding = {padding!r} is not one of {PADDINGS}")
  if longer_side is not None and longer_side < 1:
    raise ValueError(f"longer_side = {longer_side} is not a positive number")
