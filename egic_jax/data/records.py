"""Stored records to pictures and their maps, decoded here and by Pillow."""

import io
import threading
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from egic_jax import images
from egic_jax.data import panoptic


def decode(
  record: dict,
  *,
  with_labels: bool = True,
  with_weights: bool = False,
  max_side: int | None = None,
) -> dict:
  """Decodes a record of our builders read with SkipDecoding.

  Args:
    record: {"image": file content, "label": file content, "has_labels", ...}.
    with_labels: decode the label map too.
    with_weights: give every pixel a weight too. These label maps know nothing
      of instances: it is 0 for void and 1 for all others.
    max_side: a longer side above it is reduced to it (Lanczos; the other maps
      by nearest neighbour); None keeps every size.

  Returns:
    {"image": (H, W, 3) uint8, "label": (H, W) uint8, 0 void, "weight": (H, W)
    uint8}.

  Raises:
    ValueError: the record is not one of ours.
  """
  element = {"image": images.read(record["image"])}
  if with_labels or with_weights:
    with Image.open(io.BytesIO(record["label"])) as file:
      label = np.array(file)
    _check_shape(element["image"], label, record["name"])
    if with_labels:
      element["label"] = label
    if with_weights:
      element["weight"] = (label != 0).astype(np.uint8)
  return _reduce(element, max_side)


def decode_panoptic(
  record: dict,
  *,
  with_labels: bool = True,
  with_weights: bool = False,
  max_side: int | None = None,
) -> dict:
  """Decodes a record of coco/2017_panoptic read with SkipDecoding.

  Args:
    record: {"image": file content, "panoptic_image": file content,
      "panoptic_objects": the table of segments, "image/filename", ...}.
    with_labels: see decode.
    with_weights: give every pixel a weight too, see panoptic.label_and_weight.
    max_side: see decode.

  Returns:
    As decode, with labels 1..133.

  Raises:
    ValueError: picture and panoptic map are not of one size.
  """
  element = {"image": images.read(record["image"])}
  if with_labels or with_weights:
    with Image.open(io.BytesIO(record["panoptic_image"])) as file:
      numbers = np.array(file.convert("RGB"))
    _check_shape(element["image"], numbers, record["image/filename"])
    label, weight = panoptic.label_and_weight(
      numbers, record["panoptic_objects"]
    )
    if with_labels:
      element["label"] = label
    if with_weights:
      element["weight"] = weight
  return _reduce(element, max_side)


def _check_shape(image, label, name):
  if label.shape[:2] != image.shape[:2]:
    raise ValueError(
      f"record {name!r}: label map of {label.shape[:2]}, picture of"
      f" {image.shape[:2]}; build the dataset again"
    )


def _reduce(element, max_side):
  """element with the longer side at most max_side."""
  height, width = element["image"].shape[:2]
  if max_side is None or max(height, width) <= max_side:
    return element
  scale = max_side / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  return {
    name: np.array(
      Image.fromarray(array).resize(
        size,
        Image.Resampling.LANCZOS
        if name == "image"
        else Image.Resampling.NEAREST,
      )
    )
    for name, array in element.items()
  }


class DecodedSource(Sequence):
  """Random access to decoded elements, kept in memory if asked to.

  Safe to be read by several threads. Elements are read-only.
  """

  def __init__(
    self,
    records: Sequence[dict],
    indices: np.ndarray | None = None,
    *,
    decode_record: Callable[..., dict] = decode,
    with_labels: bool = True,
    with_weights: bool = False,
    max_side: int | None = None,
    cache_bytes: int = 0,
  ):
    """Wraps a source of records.

    Args:
      records: a tfds data source read with SkipDecoding.
      indices: (N,) int, the records to use; None for all.
      decode_record: decode or decode_panoptic.
      with_labels: see decode.
      with_weights: see decode.
      max_side: see decode.
      cache_bytes: elements are kept while they fit into this many bytes.
    """
    self._records = records
    self._indices = np.arange(len(records)) if indices is None else indices
    self._decode = decode_record
    self._options = {
      "with_labels": with_labels,
      "with_weights": with_weights,
      "max_side": max_side,
    }
    self._free_bytes = cache_bytes
    self._cache = {}
    self._lock = threading.Lock()

  def __getstate__(self):
    # To another process go neither the lock nor what is cached here.
    return self.__dict__ | {"_cache": {}, "_lock": None}

  def __setstate__(self, state):
    self.__dict__.update(state | {"_lock": threading.Lock()})

  def __len__(self):
    return len(self._indices)

  def __getitem__(self, index):
    index = index.__index__()
    element = self._cache.get(index)
    if element is not None:
      # A copy of the dictionary: transformations may add and remove keys.
      return dict(element)
    record = self._records[int(self._indices[index])]
    element = self._decode(record, **self._options)
    for array in element.values():
      array.flags.writeable = False
    if self._free_bytes > 0:
      self._keep(index, element)
    return dict(element)

  def _keep(self, index, element):
    size = sum(array.nbytes for array in element.values())
    with self._lock:
      if index not in self._cache and size <= self._free_bytes:
        self._cache[index] = element
        self._free_bytes -= size
