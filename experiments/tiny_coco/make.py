"""Paints a tiny dataset in the format of COCO 2017 panoptic.

    python3 experiments/tiny_coco/make.py DIRECTORY

writes a dozen pictures, their panoptic maps and annotations as the real
download has them, in a second. With it, all that is made for COCO runs without
COCO:

    egic prepare-coco --from DIRECTORY --data-dir DATA --allow-subset

Every picture holds one of each kind that a reader may get wrong: things and
stuff, small and large, an instance of 4095 and one of 4096 pixels, a small
crowd, void, and segment numbers that use all three bytes.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import zipfile

import numpy as np
from PIL import Image

# The categories of COCO's panoptic annotations: number name, in their order.
_THINGS = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck,
9 boat, 10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter,
15 bench, 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant,
23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31 handbag, 32 tie,
33 suitcase, 34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite,
39 baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard,
43 tennis racket, 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon,
51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot,
58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch, 64 potted plant,
65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote,
76 keyboard, 77 cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink,
82 refrigerator, 84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear,
89 hair drier, 90 toothbrush
"""
_STUFF = """
92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain,
112 door-stuff, 118 floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house,
130 light, 133 mirror-stuff, 138 net, 141 pillow, 144 platform,
145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand,
155 sea, 156 shelf, 159 snow, 161 stairs, 166 tent, 168 towel, 171 wall-brick,
175 wall-stone, 176 wall-tile, 177 wall-wood, 178 water-other,
180 window-blind, 181 window-other, 184 tree-merged, 185 fence-merged,
186 ceiling-merged, 187 sky-other-merged, 188 cabinet-merged,
189 table-merged, 190 floor-other-merged, 191 pavement-merged,
192 mountain-merged, 193 grass-merged, 194 dirt-merged, 195 paper-merged,
196 food-other-merged, 197 building-other-merged, 198 rock-merged,
199 wall-other-merged, 200 rug-merged
"""


def categories() -> list[dict]:
  """The entry "categories" of the annotations."""
  return [
    {
      "id": int(number),
      "name": name,
      "isthing": isthing,
      "supercategory": "thing" if isthing else "stuff",
    }
    for isthing, text in ((1, _THINGS), (0, _STUFF))
    for number, _, name in (
      entry.strip().partition(" ") for entry in text.split(",")
    )
  ]


CATEGORIES = categories()
# Label maps: 0 void, then the categories in their order.
_LABELS = {entry["name"]: i for i, entry in enumerate(CATEGORIES, 1)}


@dataclasses.dataclass
class Picture:
  """A painted picture and the truth about it.

  Attributes:
    image: (H, W, 3) uint8, every class in a colour of its own.
    numbers: (H, W) int, segment numbers, 0 for void.
    label: (H, W) uint8, 0 void, 1..133.
    weight: (H, W) uint8, 0 void, 3 in small instances, else 1.
    segments: the entry "segments_info" of its annotation.
  """

  image: np.ndarray
  numbers: np.ndarray
  label: np.ndarray
  weight: np.ndarray
  segments: list[dict]


def color_of(label: int) -> np.ndarray:
  """The colour that a class is painted in, (3,) float; void is dark."""
  if label == 0:
    return np.array([20.0, 20.0, 20.0])
  return np.random.default_rng((7, label)).uniform(60, 235, 3)


def paint(seed: int, height: int, width: int) -> Picture:
  """Paints one picture.

  Args:
    seed: another seed, another picture.
    height: pixels, at least 110.
    width: pixels, at least 150.
  """
  if height < 110 or width < 150:
    raise ValueError(
      f"height x width = {height} x {width}: at least 110 x 150 are needed"
    )
  rng = np.random.default_rng((3, seed))
  numbers = np.zeros((height, width), np.int64)
  label = np.zeros((height, width), np.uint8)
  is_small = np.zeros((height, width), bool)
  made = {}
  rows, columns = np.mgrid[:height, :width]

  def add(name, mask, *, crowd=False, small=False):
    number = int(rng.integers(1 << 16, 1 << 24))
    numbers[mask], label[mask], is_small[mask] = number, _LABELS[name], small
    made[number] = (name, crowd)

  def box(top, left, box_height, box_width):
    inside = (rows >= top) & (rows < top + box_height)
    return inside & (columns >= left) & (columns < left + box_width)

  horizon = int(rng.integers(height // 3, height // 2))
  add("sky-other-merged", rows < horizon)
  add(str(rng.choice(["grass-merged", "sea", "road"])), rows >= horizon)
  # Small, but stuff: weighs 1.
  add("rock-merged", box(horizon - 6, 2, 12, 30))
  # Two instances of one class, next to each other.
  thing = str(rng.choice(["car", "dog", "kite", "umbrella", "toothbrush"]))
  for left in (36, 50):
    add(thing, box(6, left, int(rng.integers(8, 24)), 14), small=True)
  # A small crowd: keeps its class, weighs 1.
  add("person", box(height - 24, width - 40, 20, 36), crowd=True)
  numbers[:, -3:], label[:, -3:], is_small[:, -3:] = 0, 0, False
  # On both sides of the limit. Last, so that nothing covers them.
  y = height - 68
  add("bus", box(y, 0, 64, 64))
  add("truck", box(y, 64, 63, 65), small=True)

  segments = []
  for number, (name, crowd) in made.items():
    ys, xs = np.nonzero(numbers == number)
    x, y = int(xs.min()), int(ys.min())
    segments.append(
      {
        "id": number,
        "category_id": CATEGORIES[_LABELS[name] - 1]["id"],
        "area": len(ys),
        "iscrowd": int(crowd),
        "bbox": [x, y, int(xs.max()) - x + 1, int(ys.max()) - y + 1],
      }
    )
  palette = np.stack([color_of(i) for i in range(len(CATEGORIES) + 1)])
  light = 8 * np.sin(rows / 17 + seed) + 8 * np.cos(columns / 23)
  noise = rng.normal(0, 3, (height, width))
  image = palette[label] + (light + noise)[..., None]
  weight = np.where(label == 0, 0, np.where(is_small, 3, 1))
  return Picture(
    image=np.clip(image, 0, 255).astype(np.uint8),
    numbers=numbers,
    label=label,
    weight=weight.astype(np.uint8),
    segments=segments,
  )


def picture_at(split: str, index: int, longer_side: int = 200) -> Picture:
  """The truth about a picture that `write` writes.

  Args:
    split: "train" or "validation".
    index: its number within the split.
    longer_side: as given to `write`.
  """
  seed = index + 1000 * (split == "validation")
  # Wide, narrow, and smaller ones, as in COCO.
  height, width = (
    (longer_side * 3 // 4, longer_side),
    (longer_side, longer_side * 3 // 4),
    (longer_side * 5 // 8, longer_side * 7 // 8),
  )[index % 3]
  return paint(seed, height, width)


def file_stem(split: str, index: int) -> str:
  """Name of a picture's files, without suffix."""
  return f"{index * 37 + 9 + 500_000 * (split == 'validation'):012d}"


def write(
  directory: pathlib.Path,
  *,
  train: int = 9,
  validation: int = 3,
  longer_side: int = 200,
) -> None:
  """Writes the dataset.

  Args:
    directory: gets train2017/, val2017/ and annotations/ with panoptic_*.json
      and, as downloaded, panoptic_*.zip.
    train: number of pictures for training.
    validation: number of pictures for validation.
    longer_side: of most of the pictures, pixels; at least 200.
  """
  directory = pathlib.Path(directory)
  annotations = directory / "annotations"
  annotations.mkdir(parents=True, exist_ok=True)
  for split, name, count in (
    ("train", "train2017", train),
    ("validation", "val2017", validation),
  ):
    (directory / name).mkdir(exist_ok=True)
    document = {"images": [], "annotations": [], "categories": CATEGORIES}
    with zipfile.ZipFile(annotations / f"panoptic_{name}.zip", "w") as archive:
      for index in range(count):
        picture = picture_at(split, index, longer_side)
        stem = file_stem(split, index)
        image_file = directory / name / f"{stem}.jpg"
        Image.fromarray(picture.image).save(
          image_file, quality=95, subsampling=0
        )
        n = picture.numbers
        mask = np.stack([n % 256, n // 256 % 256, n // 65536], -1)
        with archive.open(f"panoptic_{name}/{stem}.png", "w") as file:
          Image.fromarray(mask.astype(np.uint8)).save(file, "PNG")
        document["images"].append(
          {
            "id": int(stem),
            "file_name": f"{stem}.jpg",
            "height": n.shape[0],
            "width": n.shape[1],
          }
        )
        document["annotations"].append(
          {
            "image_id": int(stem),
            "file_name": f"{stem}.png",
            "segments_info": picture.segments,
          }
        )
    (annotations / f"panoptic_{name}.json").write_text(json.dumps(document))


def main() -> int:
  """The command line."""
  parser = argparse.ArgumentParser(description="Paint a tiny COCO.")
  parser.add_argument("directory", type=pathlib.Path)
  parser.add_argument("--train", type=int, default=9, help="pictures")
  parser.add_argument("--validation", type=int, default=3, help="pictures")
  parser.add_argument("--longer-side", type=int, default=200, help="pixels")
  args = parser.parse_args()
  try:
    write(
      args.directory,
      train=args.train,
      validation=args.validation,
      longer_side=args.longer_side,
    )
  except (ValueError, OSError) as error:
    print(f"make.py: error: {error}", file=sys.stderr)
    return 1
  print(f"{args.directory}: {args.train} + {args.validation} pictures")
  return 0


if __name__ == "__main__":
  sys.exit(main())
