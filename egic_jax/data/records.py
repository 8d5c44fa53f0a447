"""Stored records to pictures and label maps, decoded here and by Pillow."""

import io
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from egic_jax import images


def decode(
  record: dict, *, with_labels: bool = True, max_side: int | None = None
) -> dict:
  """Decodes a record of our builders read with SkipDecoding.

  Args:
    record: {"image": file content, "label": file content, "has_labels", ...}.
    with_labels: decode the label map too.
    max_side: a longer side above it is reduced to it (Lanczos; the label map by
      nearest neighbour); None keeps every size.

  Returns:
    {"image": (H, W, 3) uint8, "label": (H, W) uint8, 0 void}.

  Raises:
    ValueError: the record is not one of ours.
  """
  image = images.read(record["image"])
  element = {"image": image}
  if with_labels:
    with Image.open(io.BytesIO(record["label"])) as file:
      element["label"] = np.array(file)
    if element["label"].shape != image.shape[:2]:
      raise ValueError(
        f"record {record['name']!r}: label map of {element['label'].shape},"
        f" picture of {image.shape[:2]}; build the dataset again"
      )
  height, width = image.shape[:2]
  if max_side is None or max(height, width) <= max_side:
    return element
  scale = max_side / max(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  return {
    name: np.array(
      Image.fromarray(array).resize(
        size,
        Image.Resampling.NEAREST
        if name == "label"
        else Image.Resampling.LANCZOS,
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
    with_labels: bool = True,
    max_side: int | None = None,
    cache_bytes: int = 0,
  ):
    """Wraps a source of records.

    Args:
      records: a tfds data source read with SkipDecoding.
      indices: (N,) int, the records to use; None for all.
      with_labels: see decode.
      max_side: see decode.
      cache_bytes: elements are kept while they fit into this many bytes.
    """
    self._records = records
    self._indices = np.arange(len(records)) if indices is None else indices
    self._options = {"with_labels": with_labels, "max_side": max_side}
    self._free_bytes = cache_bytes
    self._cache = {}
    self._lock = threading.Lock()

  def __len__(self):
    return len(self._indices)

  def __getitem__(self, index):
    index = index.__index__()
    element = self._cache.get(index)
    if element is not None:
      # A copy of the dictionary: transformations may add and remove keys.
      return dict(element)
    record = self._records[int(self._indices[index])]
    element = decode(record, **self._options)
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
