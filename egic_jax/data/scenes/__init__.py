"""Procedural landscapes with dense label maps: pictures without a download."""

import numpy as np

from egic_jax.data.scenes import landscape, objects
from egic_jax.data.scenes.canvas import CLASSES, Canvas, grid, noise

__all__ = ["CLASSES", "paint_scene"]


def _place(canvas, rng, view, setting):
  """Chooses things and paints them from far to near."""
  height, width = canvas.height, canvas.width
  kinds = ["tree", "house", "rock", "ball", "fence", "flower"]
  weights = np.array(
    [5.0, 1.6, 1.5, 1.2, 0.8, 0.0]
    if setting != "sand"
    else [1.2, 0.5, 3.0, 2.5, 0.6, 0.0]
  )
  count = int(rng.integers(5, 15))
  things = [
    (
      rng.uniform(0.015, 1.0) ** 1.5,
      rng.choice(kinds, p=weights / weights.sum()),
    )
    for _ in range(count)
  ]
  if setting == "meadow" and rng.random() < 0.55:
    things += [
      (rng.uniform(0.45, 1.25), "flower") for _ in range(rng.integers(15, 60))
    ]
  conifers = rng.random() < 0.5
  for near, kind in sorted(things):
    x = rng.uniform(-0.02, 1.02) * width
    y = view.horizon + near * (height - view.horizon)
    row = int(np.clip(y, 0, height - 1))
    column = int(np.clip(x, 0, width - 1))
    ground = CLASSES[canvas.label[row, column]]
    if ground == "water" or (kind != "ball" and ground == "path"):
      continue
    # Trees and houses near the camera would fill the picture.
    scale = height * (0.05 + near) * rng.uniform(0.75, 1.25)
    if kind == "tree":
      paint = objects.conifer if conifers else objects.broadleaf
      if rng.random() < 0.15:
        paint = objects.broadleaf if conifers else objects.conifer
      paint(canvas, rng, view, x, y, min(0.9 * scale, 0.75 * height))
    elif kind == "house":
      objects.house(canvas, rng, view, x, y, min(0.6 * scale, 0.45 * height))
    elif kind == "rock":
      objects.rock(canvas, rng, view, x, y, 0.24 * scale)
    elif kind == "ball":
      objects.ball(canvas, rng, view, x, y, 0.26 * scale)
    elif kind == "fence":
      objects.fence(canvas, rng, view, x, y, 0.22 * scale)
    else:
      objects.flower(canvas, rng, view, x, y, 0.13 * scale)


def paint_scene(seed, height, width):
  """Paints one landscape.

  Args:
    seed: int or sequence of ints; the same seed paints the same scene.
    height: pixels, at least 32.
    width: pixels, at least 32.

  Returns:
    image: (height, width, 3) uint8.
    label: (height, width) uint8, 0 void, else an index into CLASSES.

  Raises:
    ValueError: a side is below 32 pixels.
  """
  if min(height, width) < 32:
    raise ValueError(
      f"height x width = {height} x {width}: scenes need 32 pixels a side"
    )
  rng = np.random.default_rng(seed)
  canvas = Canvas(height, width)
  light = landscape.LIGHTS[rng.choice(5, p=[0.32, 0.2, 0.22, 0.14, 0.12])]
  horizon = height * rng.uniform(0.34, 0.6)
  low = light.zenith[2] < 0.75 and light.horizon[0] > 0.9
  view = landscape.View(
    horizon=horizon,
    sun_x=width * rng.uniform(0.05, 0.95),
    sun_y=horizon * (rng.uniform(0.6, 0.95) if low else rng.uniform(0.0, 0.4)),
    light=light,
  )
  landscape.paint_sky(canvas, rng, view)
  if rng.random() < 0.35:
    objects.birds(canvas, rng, view)
  for _ in range(int(rng.choice(4, p=[0.55, 0.25, 0.12, 0.08]))):
    objects.balloon(
      canvas,
      rng,
      view,
      rng.uniform(0.05, 0.95) * width,
      rng.uniform(0.35, 0.95) * horizon,
      rng.uniform(0.07, 0.3) * height,
    )
  if rng.random() < 0.75:
    landscape.paint_mountains(canvas, rng, view)
  setting = rng.choice(["meadow", "sand"], p=[0.72, 0.28])
  water = rng.random() < (0.4 if setting == "meadow" else 0.75)
  sea = water and setting == "sand" and rng.random() < 0.8
  if not sea and rng.random() < 0.6:
    landscape.paint_treeline(canvas, rng, view)
  landscape.paint_ground(canvas, rng, view, setting)
  if water:
    landscape.paint_water(canvas, rng, view, "sea" if sea else "lake")
  elif rng.random() < 0.55:
    landscape.paint_path(canvas, rng, view)
  _place(canvas, rng, view, setting)

  # A lens and a sensor: darker corners, a little noise.
  rows, columns = grid(height, width)
  corner = (rows / height - 0.5) ** 2 + (columns / width - 0.5) ** 2
  image = canvas.image * (1.0 - 0.28 * corner)[..., None]
  grain = noise(rng, 0.1, height, width)
  image = image * (1.0 + 0.006 * grain)[..., None]
  image = np.clip(image * 255.0 + 0.5, 0, 255).astype(np.uint8)
  return image, canvas.label
