"""Things that stand, lie or float in a scene.

Each function paints one thing whose foot is at (x, y) and whose height is
`size`, all in pixels, and throws its shadow first.
"""

import numpy as np

from egic_jax.data.scenes.canvas import (
  grid,
  mix,
  noise,
  polygon,
  relief,
  smoothstep,
)

BRIGHT = (
  (0.85, 0.16, 0.14),
  (0.95, 0.70, 0.10),
  (0.12, 0.38, 0.72),
  (0.93, 0.92, 0.88),
  (0.16, 0.55, 0.34),
  (0.91, 0.42, 0.12),
  (0.50, 0.20, 0.52),
  (0.08, 0.55, 0.60),
)


def _two_colours(rng):
  first, second = rng.choice(len(BRIGHT), 2, replace=False)
  return np.float32(BRIGHT[first]), np.float32(BRIGHT[second])


def _shadow(canvas, view, x, y, width, length):
  """A soft ellipse on the ground, away from the sun."""
  shift = -view.side(canvas.width) * width * 0.7
  half = int(width + abs(shift) + 3)
  deep = int(max(length, 1.0) + 3)
  rows, columns = grid(2 * deep, 2 * half)
  reach = ((columns - half - shift) / (width + abs(shift) * 0.5)) ** 2 + (
    (rows - deep) / length
  ) ** 2
  mask = smoothstep(1.0, 0.25, reach)
  ambient = np.asarray(view.light.ambient, np.float32) * 0.85
  canvas.shade(int(y) - deep, int(x) - half, mask.astype(np.float32), ambient)


def broadleaf(canvas, rng, view, x, y, size):
  """A round-crowned tree: blobs of leaves around a trunk."""
  _shadow(canvas, view, x, y, size * 0.42, size * 0.07)
  height, width = int(size) + 4, int(size * 1.2) + 4
  rows, columns = grid(height, width)
  u, v = (columns - width / 2) / size, 1.0 - rows / size  # v: 0 foot, 1 top
  bark = noise(rng, 0.7, height, width, (5.0, 1.0))
  half = 0.035 + 0.05 * np.exp(-v * 9.0)
  lean = rng.uniform(-0.05, 0.05) * np.sin(3 * v)
  trunk = np.clip((half - np.abs(u - lean)) * size, 0, 1) * (v < 0.6)
  trunk = trunk * np.clip(v * size, 0, 1)
  side = view.side(canvas.width)
  colour = mix(
    (0.20, 0.14, 0.10), (0.45, 0.35, 0.26), np.clip(0.5 + 0.35 * bark, 0, 1)
  )
  colour = colour * np.clip(1.0 + 7.0 * (u - lean) * side, 0.5, 1.4)[..., None]
  canvas.paint(int(y) - height, int(x) - width // 2, trunk, colour, "tree")

  palette = [
    ((0.08, 0.18, 0.05), (0.33, 0.50, 0.15)),
    ((0.10, 0.22, 0.10), (0.42, 0.56, 0.24)),
    ((0.32, 0.13, 0.04), (0.80, 0.47, 0.13)),
    ((0.35, 0.25, 0.04), (0.88, 0.72, 0.20)),
  ][rng.choice(4, p=[0.4, 0.35, 0.13, 0.12])]
  leaves = noise(rng, 0.7, height, width)
  edges = noise(rng, 1.0, height, width)
  blobs = sorted(
    (rng.uniform(-0.26, 0.26), rng.uniform(0.45, 0.80), rng.uniform(0.14, 0.24))
    for _ in range(int(rng.integers(6, 11)))
  )
  for bx, by, radius in sorted(blobs, key=lambda blob: blob[1]):
    dx, dy = (u - bx) / radius, (v - by) / radius
    reach = np.hypot(dx, dy) + 0.13 * edges + 0.08 * leaves
    mask = np.clip((1.0 - reach) * radius * size * 0.6, 0, 1)
    mask = mask * (v < 0.99)
    light = 0.42 + 0.36 * dy + 0.22 * dx * side + 0.20 * leaves
    crown = mix(palette[0], palette[1], np.clip(light, 0, 1.15))
    crown = crown * np.asarray(view.light.sun, np.float32)
    canvas.paint(int(y) - height, int(x) - width // 2, mask, crown, "tree")


def conifer(canvas, rng, view, x, y, size):
  """A fir: tiers of drooping branches."""
  _shadow(canvas, view, x, y, size * 0.22, size * 0.05)
  height, width = int(size) + 4, int(size * 0.62) + 4
  rows, columns = grid(height, width)
  u, v = (columns - width / 2) / size, 1.0 - rows / size
  trunk = np.clip((0.022 - np.abs(u)) * size, 0, 1) * (v > 0) * (v < 0.3)
  canvas.paint(
    int(y) - height, int(x) - width // 2, trunk.astype(np.float32),
    (0.24, 0.17, 0.12), "tree",
  )  # fmt: skip
  tiers = rng.uniform(7, 12)
  # Branches hang: the tier's phase lags away from the trunk.
  needles = noise(rng, 0.7, height, width, (1.0, 1.5))
  phase = v * tiers + np.abs(u) * tiers * 0.9 + 0.15 * needles
  tier = phase - np.floor(phase)
  reach = 0.27 * np.clip(1.02 - v, 0, 1) * (1.06 - 0.42 * tier)
  mask = np.clip((reach - np.abs(u) + 0.012 * needles) * size, 0, 1)
  mask = mask * (v > 0.10)
  side = view.side(canvas.width)
  light = 0.30 + 0.45 * (1 - tier) + 1.1 * u * side + 0.20 * needles
  dark, bright = [
    ((0.03, 0.10, 0.07), (0.20, 0.36, 0.22)),
    ((0.04, 0.12, 0.05), (0.25, 0.38, 0.16)),
    ((0.05, 0.13, 0.14), (0.30, 0.43, 0.42)),
  ][rng.integers(3)]
  colour = mix(dark, bright, np.clip(light, 0, 1.1))
  colour = colour * np.asarray(view.light.sun, np.float32)
  canvas.paint(
    int(y) - height, int(x) - width // 2, mask.astype(np.float32), colour,
    "tree",
  )  # fmt: skip


def _wall(rng, height, width, colour, bricks):
  """A plastered or brick wall, (height, width, 3)."""
  stain = noise(rng, 1.0, height, width)
  wall = colour * (1.0 + 0.06 * stain)[..., None]
  if not bricks:
    return wall
  rows, columns = grid(height, width)
  step = max(3.0, height / 24.0)
  course = np.floor(rows / step)
  along = columns / (2.4 * step) + 0.5 * (course % 2)
  edge = np.minimum(rows / step - course, (along - np.floor(along)) * 2.4)
  tone = np.sin(course * 12.9898 + np.floor(along) * 78.233) * 43758.5453
  tone = tone - np.floor(tone)
  wall = wall * (0.82 + 0.3 * tone)[..., None]
  return mix(wall, (0.72, 0.68, 0.62), (edge < 0.8 / step) * 0.7)


def house(canvas, rng, view, x, y, size):
  """Two walls, a gabled roof, windows and a door."""
  _shadow(canvas, view, x, y, size * 0.85, size * 0.10)
  height, width = int(size) + 4, int(size * 1.6) + 4
  top, left = int(y) - height, int(x) - width // 2
  side = view.side(canvas.width)
  front = int(width * rng.uniform(0.36, 0.46))
  eaves, slant = int(height * 0.48), height * 0.05
  plaster = np.float32(
    [
      (0.90, 0.86, 0.76), (0.86, 0.76, 0.58), (0.80, 0.83, 0.84),
      (0.66, 0.33, 0.25), (0.78, 0.55, 0.47), (0.93, 0.91, 0.87),
    ][rng.integers(6)]
  )  # fmt: skip
  bricks = plaster[1] < 0.5 or rng.random() < 0.25
  sun = np.asarray(view.light.sun, np.float32)
  wall = _wall(rng, height, width, plaster, bricks) * sun
  left_tone, right_tone = (1.0, 0.68) if side < 0 else (0.74, 1.0)
  gable = polygon(
    height, width,
    [(2, height - 2), (2, eaves), (front / 2, height * 0.10), (front, eaves),
     (front, height)],
  )  # fmt: skip
  long_wall = polygon(
    height, width,
    [(front, height), (front, eaves), (width - 4, eaves + slant),
     (width - 4, height - slant)],
  )  # fmt: skip
  canvas.paint(top, left, gable, wall * left_tone, "house")
  canvas.paint(top, left, long_wall, wall * right_tone, "house")

  tile = np.float32(
    [(0.62, 0.26, 0.16), (0.42, 0.24, 0.19), (0.33, 0.35, 0.40),
     (0.70, 0.42, 0.25)][rng.integers(4)]
  )  # fmt: skip
  rows, columns = grid(height, width)
  course = (rows * 0.34 * 64.0 / height) % 1.0
  tiles = tile * (0.72 + 0.38 * course)[..., None]
  tiles = tiles * (1.0 + 0.10 * noise(rng, 0.7, height, width))[..., None] * sun
  roof = polygon(
    height, width,
    [(front / 2, height * 0.06), (width - front / 2 - 2, height * 0.06 + slant),
     (width, eaves + slant + 3), (front + 2, eaves + 3)],
  )  # fmt: skip
  canvas.paint(top, left, roof, tiles * (0.9 if side < 0 else 1.1), "house")
  verge = polygon(
    height, width,
    [(0, eaves + 3), (front / 2, height * 0.05), (front + 3, eaves + 3),
     (front - 1, eaves + 4), (front / 2, height * 0.11), (3, eaves + 4)],
  )  # fmt: skip
  canvas.paint(top, left, verge, tile * 0.75 * sun, "house")

  glass = mix((0.10, 0.14, 0.19), view.light.horizon, np.float32(0.25))
  if rng.random() < 0.3:
    glass = np.float32((0.98, 0.84, 0.50))
  frame = np.float32((0.93, 0.92, 0.88)) * sun

  def window(cx, cy, half_x, half_y, tone):
    for grow, colour in ((0.35, frame * tone), (0.0, glass)):
      gx, gy = half_x + grow * half_x, half_y + grow * half_x
      pane = np.clip(gx + 0.5 - np.abs(columns - cx), 0, 1) * np.clip(
        gy + 0.5 - np.abs(rows - cy), 0, 1
      )
      if grow == 0.0 and half_x > 2:
        pane = pane * np.clip(np.abs(columns - cx) - 0.3, 0, 1)
      canvas.paint(top, left, pane, colour, "house")

  middle = (eaves + height) / 2
  wide = width * 0.028 + 0.6
  window(front / 2, eaves * 0.72, wide, wide * 1.3, left_tone)
  window(front * 0.72, middle, wide, wide * 1.4, left_tone)
  door = np.clip(wide + 1.0 - np.abs(columns - front * 0.32), 0, 1) * (
    rows > height - (height - eaves) * 0.62
  )
  colour = np.float32(BRIGHT[rng.integers(len(BRIGHT))]) * 0.6
  door = (door * (rows < height - 1)).astype(np.float32)
  canvas.paint(top, left, door, colour * left_tone, "house")
  for place in np.linspace(front + width * 0.09, width * 0.9, 4):
    window(place, middle + slant * 0.5, wide, wide * 1.4, right_tone)


def rock(canvas, rng, view, x, y, size):
  """A boulder."""
  _shadow(canvas, view, x, y - size * 0.08, size * 0.8, size * 0.22)
  height, width = int(size) + 4, int(size * 1.7) + 4
  rows, columns = grid(height, width)
  u, v = (columns - width / 2) / (0.75 * size), 1.0 - rows / size
  lumps = noise(rng, 1.5, height, width)
  grain = noise(rng, 0.7, height, width)
  angle = np.arctan2(v, u)
  reach = np.hypot(u, v * 1.15) * (
    1.0 + 0.10 * np.sin(3 * angle + rng.uniform(0, 6))
    + 0.06 * np.sin(7 * angle + rng.uniform(0, 6))
  )  # fmt: skip
  mask = np.clip((0.97 - reach) * size * 0.6, 0, 1) * (v > 0.02)
  dome = np.sqrt(np.clip(1.0 - reach**2, 0, 1))
  side = view.side(canvas.width)
  bump = relief(lumps * size * 0.10 + dome * size * 0.18, (side, -1.0), 0.55)
  bright = np.clip(bump, 0.35, 1.5) * (1.0 + 0.13 * grain)
  stone = np.float32(
    [(0.52, 0.51, 0.49), (0.56, 0.48, 0.40), (0.42, 0.43, 0.46)][
      rng.integers(3)
    ]
  )
  colour = mix(stone, (0.38, 0.42, 0.22), smoothstep(0.5, 1.6, lumps) * 0.6)
  colour = colour * bright[..., None] * np.asarray(view.light.sun, np.float32)
  canvas.paint(
    int(y) - height, int(x) - width // 2, mask.astype(np.float32), colour,
    "rock",
  )  # fmt: skip


def _sphere(height, width, radius):
  """Offsets and surface normal of a sphere in the middle of a patch."""
  rows, columns = grid(height, width)
  nx = (columns - width / 2) / radius
  ny = (rows - height / 2) / radius
  reach = np.hypot(nx, ny)
  nz = np.sqrt(np.clip(1.0 - reach**2, 0, 1))
  mask = np.clip((1.0 - reach) * radius + 0.5, 0, 1)
  return nx, ny, nz, mask.astype(np.float32)


def ball(canvas, rng, view, x, y, size):
  """A ball with sectors, stripes or dots."""
  radius = size / 2
  _shadow(canvas, view, x, y - radius * 0.12, radius * 1.0, radius * 0.32)
  extent = int(size) + 4
  nx, ny, nz, mask = _sphere(extent, extent, radius)
  turn = rng.uniform(0, 2 * np.pi)
  ax = nx * np.cos(turn) + ny * np.sin(turn)
  ay = -nx * np.sin(turn) + ny * np.cos(turn)
  kind = rng.integers(3)
  if kind == 0:
    pattern = np.sin(3.0 * np.arctan2(ax, nz * 0.8 + ay * 0.6)) > 0
  elif kind == 1:
    pattern = np.sin(6.5 * np.arcsin(np.clip(ax, -1, 1))) > 0
  else:
    pattern = (np.sin(7 * ax / (nz + 0.4)) * np.sin(7 * ay / (nz + 0.4))) > 0.3
  first, second = _two_colours(rng)
  colour = mix(first, second, pattern)
  side = view.side(canvas.width)
  diffuse = np.clip(0.45 * nz - 0.55 * ny + 0.5 * side * nx, 0, 1)
  ambient = np.asarray(view.light.ambient, np.float32) * 0.55
  light = ambient + diffuse[..., None] * np.asarray(view.light.sun, np.float32)
  shine = np.exp(
    -((nx - 0.45 * side) ** 2 + (ny + 0.45) ** 2) / 0.02
  )  # the sun's reflection
  colour = mix(colour * light, (1.0, 1.0, 0.97), shine * 0.7)
  canvas.paint(
    int(y - radius - extent / 2), int(x - extent / 2), mask, colour, "ball"
  )


def balloon(canvas, rng, view, x, y, size):
  """A hot-air balloon; (x, y) is its basket."""
  height, width = int(size) + 4, int(size * 0.78) + 4
  rows, columns = grid(height, width)
  v = 1.0 - rows / size
  u = (columns - width / 2) / size
  half = np.where(
    v > 0.62,
    0.36 * np.sqrt(np.clip(1.0 - ((v - 0.62) / 0.38) ** 2, 0, 1)),
    0.07 + 0.29 * smoothstep(0.18, 0.62, v),
  )
  half = np.where(v > 0.2, half, 0.0)
  mask = np.clip((half - np.abs(u)) * size, 0, 1)
  across = np.clip(u / np.maximum(half, 1e-3), -1, 1)
  longitude = np.arcsin(across)
  first, second = _two_colours(rng)
  gores = np.sin(longitude * rng.integers(4, 9) + rng.uniform(0, 6)) > 0
  bands = np.sin(v * rng.uniform(14, 30)) > 0.4
  pattern = gores ^ (bands & (v > 0.45)) if rng.random() < 0.6 else gores
  side = view.side(canvas.width)
  light = 0.72 + 0.25 * np.cos(longitude) * (v - 0.3) + 0.22 * across * side
  colour = mix(first, second, pattern) * np.clip(light, 0.4, 1.2)[..., None]
  colour = colour * np.asarray(view.light.sun, np.float32)
  top, left = int(y) - height, int(x) - width // 2
  canvas.paint(top, left, mask.astype(np.float32), colour, "balloon")
  ropes = np.clip(0.6 - np.abs(np.abs(u) - 0.045) * size, 0, 1) * 0.7
  ropes = ropes * (v < 0.21) * (v > 0.08)
  canvas.paint(top, left, ropes.astype(np.float32), (0.2, 0.17, 0.15))
  basket = np.clip((0.055 - np.abs(u)) * size, 0, 1) * (v < 0.1) * (v > 0.0)
  weave = 1.0 + 0.2 * np.sign(np.sin(columns * 2.0) * np.sin(rows * 2.0))
  wicker = np.float32((0.45, 0.30, 0.17)) * weave[..., None]
  canvas.paint(top, left, basket.astype(np.float32), wicker, "balloon")


def fence(canvas, rng, view, x, y, size):
  """Pickets and two rails; x is the middle."""
  height = int(size) + 4
  width = int(size * rng.uniform(4.0, 9.0))
  _shadow(canvas, view, x, y, width * 0.5, size * 0.08)
  rows, columns = grid(height, width)
  v = 1.0 - rows / size
  step = max(size * 0.34, 3.0)
  index = np.floor(columns / step)
  place = np.abs(columns / step - index - 0.5) * step
  tip = 0.92 - place / size * 0.8 + 0.03 * np.sin(index * 5.3)
  picket = np.clip(step * 0.29 - place + 0.5, 0, 1) * np.clip(
    (tip - v) * size, 0, 1
  )
  rails = np.clip(1.0 - (np.abs(v - 0.68) - 0.035) * size, 0, 1)
  rails = np.maximum(rails, np.clip(1 - (np.abs(v - 0.3) - 0.035) * size, 0, 1))
  mask = np.maximum(picket, np.broadcast_to(rails, picket.shape)) * (v > 0)
  wood = np.float32(
    [(0.90, 0.89, 0.85), (0.50, 0.38, 0.27), (0.62, 0.58, 0.53)][
      rng.integers(3)
    ]
  )
  grain = noise(rng, 0.7, height, width, (4.0, 1.0))
  tone = np.where(picket > 0.5, 1.0 + 0.06 * np.sin(index * 9.1), 0.78)
  colour = wood * (tone * (1.0 + 0.09 * grain))[..., None]
  colour = colour * np.asarray(view.light.sun, np.float32)
  canvas.paint(
    int(y) - height, int(x) - width // 2, mask.astype(np.float32), colour,
    "fence",
  )  # fmt: skip


def flower(canvas, rng, view, x, y, size):
  """A stem with a head of petals."""
  radius = size * rng.uniform(0.2, 0.28)
  height, width = int(size) + 4, int(2.6 * radius) + 5
  rows, columns = grid(height, width)
  middle = width / 2
  sway = np.sin(rows / height * 2.5) * rng.uniform(-1.2, 1.2)
  stem = np.clip(0.9 - np.abs(columns - middle - sway), 0, 1) * (rows > radius)
  top, left = int(y) - height, int(x) - width // 2
  canvas.paint(top, left, stem.astype(np.float32), (0.17, 0.36, 0.10), "flower")
  dx, dy = columns - middle, (rows - radius * 1.25) * 1.15
  angle, reach = np.arctan2(dy, dx), np.hypot(dx, dy) / radius
  petals = int(rng.integers(5, 9))
  outline = 0.72 + 0.28 * np.cos(petals * angle + rng.uniform(0, 6))
  mask = np.clip((outline - reach) * radius + 0.5, 0, 1)
  colour = np.float32(
    [(0.93, 0.20, 0.18), (0.97, 0.95, 0.93), (0.98, 0.80, 0.16),
     (0.60, 0.36, 0.82), (0.96, 0.52, 0.66)][rng.integers(5)]
  )  # fmt: skip
  colour = colour * (0.7 + 0.38 * np.clip(reach, 0, 1))[..., None]
  colour = mix(colour, (0.85, 0.62, 0.10), reach < 0.3)
  colour = colour * np.asarray(view.light.sun, np.float32)
  canvas.paint(top, left, mask.astype(np.float32), colour, "flower")


def birds(canvas, rng, view):
  """A few gulls; they have no class, so they are void in the label map."""
  for _ in range(int(rng.integers(2, 6))):
    span = canvas.width * rng.uniform(0.012, 0.03)
    height, width = int(span) + 4, int(2 * span) + 4
    rows, columns = grid(height, width)
    u = np.abs(columns - width / 2) / span
    wing = span * (0.55 - 0.45 * np.sin(u * 2.2)) + rng.uniform(0, 1)
    mask = np.clip(0.9 * (1.2 - u) - np.abs(rows - wing) + 0.5, 0, 1)
    x, y = rng.uniform(0.05, 0.95), rng.uniform(0.08, 0.6)
    canvas.paint(
      int(y * view.horizon), int(x * canvas.width),
      (mask * (u < 1)).astype(np.float32), (0.13, 0.13, 0.16), "void",
    )  # fmt: skip
