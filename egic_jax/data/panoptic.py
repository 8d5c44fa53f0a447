"""COCO's panoptic annotations to label maps and to weights of pixels.

A panoptic map is a picture whose colours are numbers of segments, R + 256 G +
65536 B; a table gives every segment its class, its area, and whether it is a
crowd. Number 0 is void.
"""

from collections.abc import Mapping, Sequence

import numpy as np

NUM_CLASSES = 133
# The first so many classes are things, which come as instances; the others
# are stuff, which does not.
NUM_THINGS = 80
# An instance of fewer pixels is small, and its pixels weigh more.
SMALL_AREA = 4096
SMALL_WEIGHT = 3

# Classes at the two ends of things and stuff: that they are where they should
# be tells COCO's own list of classes from any other of the same length.
_LANDMARKS = {0: "person", 79: "toothbrush", 80: "banner", 132: "rug-merged"}


def check_classes(names: Sequence[str]) -> None:
  """Raises ValueError unless these are COCO's 133 classes in their order.

  The order decides the meaning of every label, and which classes are things.

  Args:
    names: of the classes, without void.
  """
  if len(names) != NUM_CLASSES:
    raise ValueError(
      f"{len(names)} classes, but COCO's panoptic annotations have"
      f" {NUM_CLASSES}; use panoptic_annotations_trainval2017 as published"
    )
  for index, name in _LANDMARKS.items():
    if names[index] != name:
      raise ValueError(
        f"class {index} is {names[index]!r} and not {name!r}, so the classes"
        " are not those of COCO in their order; use"
        " panoptic_annotations_trainval2017 as published"
      )


def label_and_weight(
  panoptic: np.ndarray, segments: Mapping[str, Sequence]
) -> tuple[np.ndarray, np.ndarray]:
  """Turns numbers of segments into classes and weights.

  Small is what the annotation's own area, in pixels of the picture as it was
  published, says is small: a person far away weighs more at every scale and in
  every crop. (DeepLab2, from which the official code has this weight, counts
  after scaling and cropping, where every instance that a crop cuts off can be
  small.) Stuff and crowds are no instances and weigh 1. Numbers that are not in
  the table are void.

  Args:
    panoptic: (H, W, 3) uint8.
    segments: {"id": numbers, "label": classes 0..132, "area": pixels,
      "is_crowd": bools}, of one length.

  Returns:
    label: (H, W) uint8, 0 void, 1..133 classes; crowds keep their class.
    weight: (H, W) uint8, 0 void, 3 for pixels of small instances, 1 others.
  """
  height, width, _ = panoptic.shape
  padded = np.zeros((height, width, 4), np.uint8)
  padded[..., :3] = panoptic
  numbers = padded.view("<u4").ravel()
  # Runs of one number along the rows are a hundred times fewer than pixels.
  starts = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
  starts = np.concatenate([[0], starts])
  lengths = np.diff(starts, append=numbers.size)
  values, run = np.unique(numbers[starts], return_inverse=True)

  table = {0: (0, 0)}
  columns = (segments[name] for name in ("id", "label", "area", "is_crowd"))
  for number, class_index, area, is_crowd in zip(*columns, strict=True):
    small = class_index < NUM_THINGS and not is_crowd and area < SMALL_AREA
    entry = (class_index + 1, SMALL_WEIGHT if small else 1)
    table.setdefault(int(number), entry)
  entries = np.array(
    [table.get(value, table[0]) for value in values.tolist()], np.uint8
  )
  label, weight = (
    np.repeat(column[run], lengths).reshape(height, width)
    for column in entries.T
  )
  return label, weight
