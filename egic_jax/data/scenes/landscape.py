"""The large parts of a scene: sky, mountains, ground, water, a path."""

import dataclasses

import numpy as np

from egic_jax.data.scenes.canvas import (
  grid,
  mix,
  noise,
  noise_at,
  relief,
  smoothstep,
)


@dataclasses.dataclass(frozen=True)
class Light:
  """Colours of a time of day; each is RGB in [0, 1]."""

  zenith: tuple
  horizon: tuple
  sun: tuple
  ambient: tuple
  cloud: tuple


LIGHTS = (
  # noon
  Light((0.20, 0.44, 0.80), (0.74, 0.86, 0.95), (1.06, 1.04, 0.98),
        (0.62, 0.68, 0.80), (0.98, 0.98, 0.99)),
  # clear winter
  Light((0.13, 0.33, 0.67), (0.66, 0.79, 0.88), (1.02, 1.01, 0.98),
        (0.58, 0.66, 0.82), (0.93, 0.95, 0.98)),
  # golden hour
  Light((0.33, 0.46, 0.69), (0.98, 0.79, 0.55), (1.12, 0.94, 0.72),
        (0.62, 0.56, 0.62), (0.99, 0.86, 0.74)),
  # dusk
  Light((0.20, 0.19, 0.42), (0.93, 0.55, 0.45), (0.93, 0.72, 0.66),
        (0.48, 0.43, 0.60), (0.86, 0.58, 0.60)),
  # overcast
  Light((0.56, 0.62, 0.69), (0.82, 0.84, 0.86), (0.86, 0.88, 0.90),
        (0.70, 0.73, 0.78), (0.90, 0.91, 0.92)),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class View:
  """Where the camera looks and what lights it.

  Attributes:
    horizon: row of the horizon, pixels.
    sun_x: column of the sun, pixels.
    sun_y: row of the sun, pixels.
    light: colours.
  """

  horizon: float
  sun_x: float
  sun_y: float
  light: Light

  def side(self, width):
    """-1 with the sun at the left edge, 1 at the right."""
    return 2.0 * self.sun_x / width - 1.0


def paint_sky(canvas, rng, view):
  """Gradient, sun and clouds, down to the horizon."""
  height, width = int(view.horizon) + 1, canvas.width
  rows, columns = grid(height, width)
  altitude = np.clip(1.0 - rows / view.horizon, 0.0, 1.0)
  sky = mix(view.light.horizon, view.light.zenith, altitude**0.65)
  sky = np.broadcast_to(sky, (height, width, 3))
  distance = np.hypot(columns - view.sun_x, rows - view.sun_y) / width
  glow = np.exp(-distance * 4.5) * 0.55 + np.exp(-((distance / 0.035) ** 2))
  sky = mix(sky, (1.0, 0.97, 0.88), np.clip(glow, 0, 1))

  # Clouds lie on a plane overhead: they shrink and flatten to the horizon.
  depth = 1.0 / (altitude + 0.22)
  across = (columns - width / 2) / width * depth * 150.0
  along = depth * 170.0
  start = rng.bit_generator.state
  density = noise_at(rng, 1.5, along, across)
  rng.bit_generator.state = start  # the same clouds, a step to the sun
  toward = noise_at(rng, 1.5, along + 7.0, across + 7.0 * view.side(width))
  density = density + 0.22 * noise_at(rng, 1.0, along * 2, across * 2)
  cover = rng.uniform(-0.4, 1.1)
  mask = smoothstep(cover, cover + 1.3, density) * smoothstep(
    0.0, 0.25, altitude
  )
  bright = np.clip(0.86 + 0.28 * (density - toward) - 0.08 * density, 0.55, 1.1)
  cloud = np.asarray(view.light.cloud, np.float32) * bright[..., None]
  sky = mix(sky, cloud, mask * 0.92)
  canvas.paint(0, 0, np.ones((height, width), np.float32), sky, "sky")


def _ridge(rng, width, slope):
  """A 1-d fractal line of `width` values, about [-1, 1]."""
  frequency = np.fft.rfftfreq(2 * width)
  frequency[0] = np.inf
  spectrum = np.fft.rfft(rng.standard_normal(2 * width)) * frequency**-slope
  line = np.fft.irfft(spectrum)[:width]
  return (line / np.abs(line).max()).astype(np.float32)


def paint_mountains(canvas, rng, view):
  """One to three ranges, paler with distance; snow on the high ones."""
  height, width = int(view.horizon) + 2, canvas.width
  rows, _ = grid(height, width)
  layers = int(rng.integers(1, 4))
  top = rng.uniform(0.35, 0.72)
  rock = np.array(
    [(0.36, 0.37, 0.36), (0.40, 0.34, 0.30), (0.27, 0.36, 0.30)][
      rng.integers(3)
    ],
    np.float32,
  )
  snow_line = rng.uniform(0.1, 1.1)
  for layer in range(layers):
    near = (layer + 1) / layers
    peak = view.horizon * top * (1.05 - 0.62 * near * (layers > 1))
    ridge = view.horizon - peak * (0.55 + 0.45 * _ridge(rng, width, 1.35))
    mask = np.clip(rows - ridge[None, :], 0, 1)
    mask = mask * np.clip(view.horizon + 2 - rows, 0, 1)
    # Folds run down from the ridge: noise drawn out along the fall line.
    depth = rows - ridge[None, :]
    folds = noise(rng, 1.6, height, width, (1.8, 1.0)) * 8.0
    folds = folds + 0.55 * noise(rng, 1.3, height, width, (1.6, 1.0))
    lit = relief(folds, (1.2 * view.side(width) + 0.2, -0.5), 0.40)
    lit = np.clip(lit, 0.5, 1.45)
    detail = noise(rng, 1.0, height, width)
    colour = mix(rock * 0.9, rock * 1.15, np.clip(0.5 + 0.3 * detail, 0, 1))
    forest = smoothstep(0.35, 0.95, depth / max(peak, 1) + 0.08 * detail)
    colour = mix(colour, (0.17, 0.27, 0.16), forest * 0.8)
    line = peak * (1.0 - snow_line * 0.62)
    snow = smoothstep(
      -6, 8, (view.horizon - rows) - line - 2 * detail - 1.6 * folds
    )
    colour = mix(colour, (0.93, 0.95, 1.0), snow)
    colour = colour * np.asarray(view.light.sun, np.float32) * lit[..., None]
    haze = 0.72 * (1.0 - near) + 0.16 + 0.3 * np.clip(depth / height, 0, 1)
    colour = mix(colour, view.light.horizon, np.clip(haze, 0, 0.9))
    canvas.paint(0, 0, mask, colour, "mountain")


def paint_treeline(canvas, rng, view):
  """A far wood along the horizon."""
  height, width = int(view.horizon) + 2, canvas.width
  rows, _ = grid(height, width)
  size = height * rng.uniform(0.015, 0.05)
  edge = view.horizon - size * np.clip(
    0.8 + 0.9 * _ridge(rng, width, 0.7), 0.0, 3.0
  )
  mask = np.clip(rows - edge[None, :], 0, 1)
  mask = mask * np.clip(view.horizon + 1.5 - rows, 0, 1)
  leaves = noise(rng, 0.7, height, width)
  colour = mix((0.10, 0.19, 0.09), (0.25, 0.36, 0.16), 0.4 + 0.25 * leaves)
  colour = mix(
    colour * np.asarray(view.light.sun), view.light.horizon, np.float32(0.33)
  )
  canvas.paint(0, 0, mask, colour, "tree")


def _plane(canvas, view):
  """Ground coordinates of the rows below the horizon.

  Returns:
    top: the first of those rows.
    below: (h, 1) rows below the horizon, pixels.
    near: (h, 1), 0 at the horizon and 1 at the lower edge.
    across: (h, W), to the right on the ground.
    away: (h, 1), distance on the ground.
  """
  top = int(view.horizon)
  rows, columns = grid(canvas.height - top, canvas.width)
  below = rows + top - view.horizon
  near = np.clip(below / (canvas.height - view.horizon), 1e-3, 1.0)
  distance = np.minimum(1.0 / near, 60.0)
  across = (columns - canvas.width / 2) / canvas.width * distance * 100.0
  return top, below, near, across, distance * 100.0


def paint_ground(canvas, rng, view, name):
  """Meadow or sand to the horizon."""
  top, below, near, across, away = _plane(canvas, view)
  height, width = across.shape
  patches = noise_at(rng, 1.5, away, across)
  clumps = noise_at(rng, 1.0, away * 2.5, across * 2.5)
  if name == "meadow":
    first, second, dry = [
      ((0.20, 0.36, 0.10), (0.44, 0.56, 0.19), (0.62, 0.58, 0.27)),
      ((0.16, 0.31, 0.12), (0.35, 0.50, 0.18), (0.50, 0.52, 0.25)),
      ((0.40, 0.38, 0.14), (0.66, 0.58, 0.25), (0.78, 0.68, 0.36)),
    ][rng.integers(3)]
    colour = mix(first, second, np.clip(0.5 + 0.35 * patches, 0, 1))
    colour = mix(colour, dry, smoothstep(0.6, 2.2, clumps) * 0.7)
    # Blades stand upright in the picture and grow towards the camera.
    blades = noise(rng, 0.6, height, width, (3.5, 0.9))
    fine = noise(rng, 0.6, height, width, (1.4, 0.8))
    blades = fine + (blades - fine) * near
    bright = 1.0 + (0.06 + 0.20 * near) * blades + 0.10 * clumps
  else:
    colour = mix(
      (0.72, 0.60, 0.42), (0.90, 0.80, 0.62), np.clip(0.5 + 0.3 * patches, 0, 1)
    )
    ripples = np.sin(away * 0.9 + 2.2 * patches + across * 0.08)
    grains = noise(rng, 0.3, height, width)
    bright = (
      1.0 + 0.07 * ripples * smoothstep(0.1, 0.5, near) + 0.05 * clumps
    ) + 0.05 * grains * near
  colour = colour * np.clip(bright, 0.35, 1.7)[..., None]
  colour = colour * np.asarray(view.light.sun, np.float32)
  haze = np.broadcast_to(0.45 * (1.0 - near) ** 6, (height, width))
  colour = mix(colour, view.light.horizon, haze)
  # Cloud shadows.
  shadow = smoothstep(0.5, 1.6, noise_at(rng, 1.5, away * 0.7, across * 0.7))
  colour = colour * (1.0 - 0.22 * shadow[..., None])
  mask = np.broadcast_to(np.clip(below, 0, 1), (height, width))
  canvas.paint(top, 0, mask, colour, name)


def paint_water(canvas, rng, view, kind):
  """A lake in the ground (`kind` "lake") or a sea to the horizon ("sea").

  The water mirrors what is painted above the horizon at the time.
  """
  top, below, near, across, away = _plane(canvas, view)
  height, width = across.shape
  _, columns = grid(height, width)
  swell = noise_at(rng, 1.2, away * 2.2, across * 0.7)
  fine = noise_at(rng, 0.8, away * 3.0, across * 1.2)
  waves = swell + 0.4 * fine * near
  calm = rng.uniform(0.35, 1.0)
  source = view.horizon - below * 0.9
  source = source + waves * (1.0 + 11.0 * near) * calm
  source = np.clip(source, 0, max(view.horizon - 1, 0)).astype(np.int64)
  sideways = np.clip(columns + waves * 2.0, 0, width - 1).astype(np.int64)
  mirrored = canvas.image[source, sideways]
  deep = [(0.05, 0.20, 0.26), (0.05, 0.28, 0.33), (0.08, 0.17, 0.26)][
    rng.integers(3)
  ]
  see_in = np.clip(0.18 + 0.45 * near + 0.09 * waves, 0, 0.85)
  colour = mix(mirrored, deep, np.broadcast_to(see_in, (height, width)))
  crest = smoothstep(1.5, 2.6, waves) * 0.5
  colour = mix(colour, view.light.cloud, crest)
  column = np.exp(-(((columns - view.sun_x) / (0.11 * width)) ** 2))
  glitter = smoothstep(0.9, 1.9, swell) * column * 0.8
  colour = mix(colour, view.light.sun, np.clip(glitter, 0, 1))
  shore = 4.0 * _ridge(rng, width, 1.2)[None, :] + noise_at(
    rng, 1.5, away * 0.5, across * 0.5
  )
  if kind == "sea":
    end = rng.uniform(0.35, 0.75)
    inside = (end - near) * 40.0 + 0.9 * shore
  else:
    middle, half = rng.uniform(0.12, 0.28), rng.uniform(0.05, 0.13)
    centre = rng.uniform(0.25, 0.75) * width
    reach = np.abs(columns - centre) / (width * rng.uniform(0.35, 0.8))
    spread = np.maximum(1.0 - reach**2, 0.0) ** 0.5
    inside = (half * spread - np.abs(near - middle)) * 60.0 + 0.6 * shore
    inside = np.where(spread > 0, inside, -9.0)
  ground = np.clip(below, 0, 1)
  mask = smoothstep(-0.6, 0.6, inside) * ground
  # Wet ground and a line of foam along the shore.
  wet = smoothstep(-4, 0, inside) * (mask < 0.5) * ground
  canvas.shade(top, 0, wet, (0.72,) * 3)
  foam = np.exp(-((inside / 1.1) ** 2)) * (0.5 + 0.3 * fine)
  colour = mix(colour, (0.95, 0.96, 0.97), np.clip(foam, 0, 0.85))
  canvas.paint(top, 0, mask, colour, "water")


def paint_path(canvas, rng, view):
  """A track of earth or cobbles from the lower edge into the distance."""
  top, below, near, _, away = _plane(canvas, view)
  height, width = canvas.height - top, canvas.width
  _, columns = grid(height, width)
  start, bend = rng.uniform(0.25, 0.75), rng.uniform(-1.2, 1.2)
  target = rng.uniform(0.3, 0.7)
  centre = target + (start - target) * near
  centre = centre + 0.16 * bend * np.sin(5.0 * near**0.5) * near**0.5
  half = rng.uniform(0.10, 0.2) * near * width
  rough = noise(rng, 1.0, height, width)
  side = (columns - centre * width) / (half + 1e-3)
  mask = smoothstep(0.0, 1.0, (1.0 - np.abs(side)) * half + 1.4 * rough * near)
  mask = mask * np.clip(below - 1, 0, 1)
  earth = mix(
    (0.45, 0.36, 0.26), (0.66, 0.57, 0.45), np.clip(0.5 + 0.3 * rough, 0, 1)
  )
  if rng.random() < 0.4:
    # Cobbles: a brick pattern in ground coordinates.
    course = np.floor(away / 9.0)
    stone_y = away / 9.0 - course
    position = (side * 5.0) + 0.5 * (course % 2)
    stone_x = position - np.floor(position)
    joint = np.minimum(
      smoothstep(0.0, 0.22, np.minimum(stone_x, 1 - stone_x)),
      smoothstep(0.0, 0.22, np.minimum(stone_y, 1 - stone_y)),
    )
    tone = np.sin(course * 12.9898 + np.floor(position) * 78.233) * 43758.5453
    tone = tone - np.floor(tone)
    stone = mix((0.42, 0.41, 0.42), (0.68, 0.65, 0.61), tone)
    visible = smoothstep(0.12, 0.35, near)
    cobbles = stone * (0.45 + 0.55 * joint)[..., None]
    earth = mix(earth, cobbles, np.broadcast_to(visible, (height, width)))
  ruts = np.exp(-(((np.abs(side) - 0.5) / 0.16) ** 2))
  grains = noise(rng, 0.5, height, width)
  bright = 1.0 - 0.16 * ruts + (0.05 + 0.07 * near) * grains
  colour = earth * bright[..., None] * np.asarray(view.light.sun, np.float32)
  haze = np.broadcast_to(0.4 * (1.0 - near) ** 6, (height, width))
  canvas.paint(top, 0, mask, mix(colour, view.light.horizon, haze), "path")
