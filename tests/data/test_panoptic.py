import numpy as np
import pytest
from tiny_coco import make

from egic_jax.data import panoptic

_NAMES = [entry["name"] for entry in make.CATEGORIES]


def _rgb(numbers):
  numbers = np.asarray(numbers)
  parts = [numbers % 256, numbers // 256 % 256, numbers // 65536]
  return np.stack(parts, -1).astype(np.uint8)


def _segments(*rows):
  columns = zip(*rows, strict=True)
  return dict(zip(("id", "label", "area", "is_crowd"), columns, strict=True))


def test_numbers_become_classes_and_weights():
  # Numbers that agree in all but one of their bytes.
  one, two, three, four = 0x010203, 0x010204, 0x010303, 0x020203
  numbers = np.array([[one, two, three], [four, 0, 0xFFFFFF]])
  label, weight = panoptic.label_and_weight(
    _rgb(numbers),
    _segments(
      (one, 0, 4095, False),  # a small person
      (two, 79, 4096, False),  # a toothbrush that is not small
      (three, 80, 9, False),  # stuff: no instance
      (four, 132, 9999, False),
    ),
  )
  assert label.dtype == weight.dtype == np.uint8
  # Void is 0, and so is a number that the table does not have.
  assert label.tolist() == [[1, 80, 81], [133, 0, 0]]
  assert weight.tolist() == [[3, 1, 1], [1, 0, 0]]


def test_crowds_keep_their_class_and_weigh_one():
  label, weight = panoptic.label_and_weight(
    _rgb([[7, 8]]), _segments((7, 18, 5, True), (8, 18, 5, False))
  )
  assert label.tolist() == [[19, 19]]
  assert weight.tolist() == [[1, 3]]


def test_number_zero_is_void_whatever_the_table_says():
  label, weight = panoptic.label_and_weight(
    _rgb([[0, 1]]), _segments((0, 3, 5, False), (1, 4, 5, False))
  )
  assert label.tolist() == [[0, 5]]
  assert weight.tolist() == [[0, 3]]


def test_no_segments_is_all_void():
  empty = {"id": [], "label": [], "area": [], "is_crowd": []}
  label, weight = panoptic.label_and_weight(_rgb([[1, 2]]), empty)
  assert not label.any() and not weight.any()


def test_published_classes_are_accepted_and_others_refused():
  assert len(_NAMES) == panoptic.NUM_CLASSES
  things = [entry["isthing"] for entry in make.CATEGORIES]
  assert sum(things) == panoptic.NUM_THINGS
  assert things == sorted(things, reverse=True)
  numbers = [entry["id"] for entry in make.CATEGORIES]
  assert numbers == sorted(numbers)
  panoptic.check_classes(_NAMES)
  with pytest.raises(ValueError, match="80 classes"):
    panoptic.check_classes(_NAMES[:80])
  with pytest.raises(ValueError, match="not 'person'"):
    panoptic.check_classes(sorted(_NAMES))
  with pytest.raises(ValueError, match="class 79"):
    panoptic.check_classes([*_NAMES[:79], _NAMES[80], _NAMES[79], *_NAMES[81:]])
