"""Training squares, cut, scaled and mirrored on the device.

All photographs lie in one array of device memory, one after the other, so that
no size wastes any. A square is gathered, resampled and changed within the
training step; the host has nothing to do.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import plan

# Of the cubic filter, samples to each side; more when it reduces.
_REACH = 2.0
# Of Rec. 601.
_LUMA = (0.299, 0.587, 0.114)


class Atlas(flax.struct.PyTreeNode):
  """Photographs, those with a label map first.

  Attributes:
    pixels: (P, 3) uint8, rows of all pictures, one after the other.
    labels: (Q,) uint8, likewise of those with a label map; 0 is void.
    start: (N,) int32, where a picture begins.
    height, width: (N,) int32.
    num_labelled: pictures with a label map.
  """

  pixels: jax.Array
  labels: jax.Array
  start: jax.Array
  height: jax.Array
  width: jax.Array
  num_labelled: int = flax.struct.field(pytree_node=False)

  @property
  def num_pictures(self) -> int:
    """N."""
    return self.start.shape[0]


class Square(NamedTuple):
  """Where a square lies and what is done with it; scalars.

  Attributes:
    picture: its number.
    top, left: the corner, in pixels of the picture; may be outside.
    zoom: pixels of the square over those of the picture, along a side.
    flip, transpose: whether; transposed last.
  """

  picture: jax.Array
  top: jax.Array
  left: jax.Array
  zoom: jax.Array
  flip: jax.Array
  transpose: jax.Array


def make_atlas(
  pictures: Sequence[tuple[np.ndarray, np.ndarray | None]],
) -> Atlas:
  """Lays pictures side by side, in the host's memory.

  Args:
    pictures: (image (H, W, 3) uint8, label (H, W) uint8 or None), H, W >= 2.

  Raises:
    ValueError: there is none, or one is too small or its label does not fit.
  """
  if not pictures:
    raise ValueError("pictures: there is none; pack some")
  for number, (image, label) in enumerate(pictures):
    if min(image.shape[:2]) < 2:
      raise ValueError(f"pictures[{number}] is {image.shape}: too small")
    if label is not None and label.shape != image.shape[:2]:
      raise ValueError(
        f"pictures[{number}] is {image.shape}, its label map {label.shape};"
        " make them as large"
      )
  ordered = [pair for pair in pictures if pair[1] is not None]
  num_labelled = len(ordered)
  ordered += [pair for pair in pictures if pair[1] is None]
  shapes = np.array([image.shape[:2] for image, _ in ordered], np.int64)
  ends = np.cumsum(shapes.prod(axis=1))
  if ends[-1] >= 2**31:
    raise ValueError(f"pictures: {ends[-1]:,} pixels; 2^31 is the limit")
  labels = [label.ravel() for _, label in ordered if label is not None]
  return Atlas(
    pixels=np.concatenate([image.reshape(-1, 3) for image, _ in ordered]),
    labels=np.concatenate([np.zeros(0, np.uint8), *labels]),
    start=np.concatenate([[0], ends[:-1]]).astype(np.int32),
    height=shapes[:, 0].astype(np.int32),
    width=shapes[:, 1].astype(np.int32),
    num_labelled=num_labelled,
  )


def cut(
  atlas: Atlas, square: Square, *, size: int, least_zoom: float
) -> dict[str, jax.Array]:
  """Cuts a square; beyond its edge a picture is mirrored, its label void.

  Resampled by an antialiased cubic filter, labels by nearest neighbour. At zoom
  1 nothing is resampled.

  Args:
    atlas: the pictures.
    square: which one.
    size: its side, pixels.
    least_zoom: no square's zoom is smaller.

  Returns:
    {"image": (size, size, 3) uint8, "label": (size, size) uint8, "weight": the
    same, 0 where void}; only the first if there are no label maps.
  """
  reach = math.ceil(_REACH / min(least_zoom, 1.0)) + 1
  window = math.ceil(size / least_zoom) + 2 * reach
  height, width = atlas.height[square.picture], atlas.width[square.picture]
  start = atlas.start[square.picture]
  rows = _mirrored(square.top - reach + jnp.arange(window), height)
  columns = _mirrored(square.left - reach + jnp.arange(window), width)
  source = atlas.pixels[start + rows[:, None] * width + columns]
  image = jax.image.scale_and_translate(
    source.astype(jnp.float32),
    (size, size, 3),
    (0, 1),
    scale=jnp.full(2, square.zoom),
    translation=jnp.full(2, -reach * square.zoom),
    method="cubic",
    antialias=True,
  )
  result = {"image": jnp.clip(jnp.round(image), 0, 255).astype(jnp.uint8)}
  if atlas.labels.shape[0]:
    places = jnp.floor((jnp.arange(size) + 0.5) / square.zoom).astype(jnp.int32)
    rows, columns = square.top + places, square.left + places
    inside = ((rows >= 0) & (rows < height))[:, None]
    inside = inside & ((columns >= 0) & (columns < width))
    at = start + rows[:, None] * width + columns
    label = atlas.labels[jnp.clip(at, 0, atlas.labels.shape[0] - 1)]
    result["label"] = jnp.where(inside, label, 0)
    result["weight"] = (result["label"] != 0).astype(jnp.uint8)
  return {
    name: _turned(array, square.flip, square.transpose)
    for name, array in result.items()
  }


def _mirrored(place, count):
  """Indices into a row of *count*, which is mirrored beyond its ends."""
  period = 2 * (count - 1)
  place = place % period
  return jnp.minimum(place, period - place)


def _turned(array, flip, transpose):
  array = jnp.where(flip, array[:, ::-1], array)
  return jnp.where(transpose, jnp.swapaxes(array, 0, 1), array)


@functools.partial(
  jax.jit, static_argnames=("count", "size", "labelled", "augmentation")
)
def draw(
  key: jax.Array,
  atlas: Atlas,
  *,
  count: int,
  size: int,
  labelled: bool,
  augmentation: plan.Augmentation,
) -> dict[str, jax.Array]:
  """Random squares; what is drawn depends on the key alone.

  A picture is not reduced to less than a square, and lies anywhere in the
  square if it is smaller. Corners are whole pixels.

  Args:
    key: random key.
    atlas: the pictures; each is as likely as any other.
    count: B.
    size: side of the squares, pixels.
    labelled: only pictures with a label map, and these maps.
    augmentation: how to draw.

  Returns:
    {"image": (B, size, size, 3) uint8}, with `labelled` "label" and "weight"
    (B, size, size) uint8, too.
  """
  least, greatest = augmentation.zoom
  if not labelled:
    atlas = atlas.replace(labels=atlas.labels[:0])

  def one(key):
    keys = jax.random.split(key, 7)
    number = atlas.num_labelled if labelled else atlas.num_pictures
    picture = jax.random.randint(keys[0], (), 0, number)
    sides = jnp.stack([atlas.height[picture], atlas.width[picture]])
    logarithm = jax.random.uniform(
      keys[1], (), minval=math.log(least), maxval=math.log(greatest)
    )
    native = jax.random.uniform(keys[2]) < augmentation.native
    zoom = jnp.where(native, 1.0, jnp.exp(logarithm))
    zoom = jnp.maximum(zoom, jnp.minimum(1.0, size / jnp.min(sides)))
    # As in the data pipeline: within the picture, or the picture within it.
    spare = sides - size / zoom
    corner = jnp.floor(
      jax.random.uniform(keys[3], (2,)) * (jnp.floor(abs(spare)) + 1.0)
    )
    corner = jnp.where(spare < 0, -corner, corner).astype(jnp.int32)
    chances = jnp.array([augmentation.flip, augmentation.transpose])
    flip, transpose = jax.random.uniform(keys[4], (2,)) < chances
    square = Square(picture, corner[0], corner[1], zoom, flip, transpose)
    batch = cut(atlas, square, size=size, least_zoom=min(least, 1.0))
    coloured = recolour(batch["image"], keys[5], augmentation.strength)
    changed = jax.random.uniform(keys[6]) < augmentation.colour
    return batch | {"image": jnp.where(changed, coloured, batch["image"])}

  return jax.vmap(one)(jax.random.split(key, count))


def recolour(image: jax.Array, key: jax.Array, strength: float) -> jax.Array:
  """Other saturation, contrast and brightness: factors of 1 +- strength.

  Args:
    image: (H, W, 3) uint8.
    key: random key.
    strength: in [0, 1]; brightness moves by half of it, of the mean.

  Returns:
    (H, W, 3) uint8.
  """
  saturation, contrast, brightness = jax.random.uniform(
    key, (3,), minval=-strength, maxval=strength
  )
  values = image.astype(jnp.float32)
  grey = jnp.sum(values * jnp.array(_LUMA), axis=-1, keepdims=True)
  values = grey + (values - grey) * (1.0 + saturation)
  mean = jnp.mean(grey)
  values = mean * (1.0 + brightness / 2) + (values - mean) * (1.0 + contrast)
  return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames=("count", "size", "labelled"))
def middles(
  atlas: Atlas, *, count: int, size: int, labelled: bool
) -> dict[str, jax.Array]:
  """The middle squares of the first pictures, unscaled; as `draw` returns."""
  number = atlas.num_labelled if labelled else atlas.num_pictures
  if not labelled:
    atlas = atlas.replace(labels=atlas.labels[:0])

  def one(picture):
    square = Square(
      picture=picture,
      top=(atlas.height[picture] - size) // 2,
      left=(atlas.width[picture] - size) // 2,
      zoom=jnp.float32(1.0),
      flip=jnp.bool_(False),
      transpose=jnp.bool_(False),
    )
    return cut(atlas, square, size=size, least_zoom=1.0)

  return jax.vmap(one)(jnp.arange(min(count, number)))
