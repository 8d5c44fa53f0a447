"""TFDS builder of a person's own photographs, with label maps if there are."""

import collections
import concurrent.futures
import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from absl import logging
from PIL import Image

from egic_jax import images
from egic_jax.data import folder_layout, taxonomy
from egic_jax.data.builders import features

# Kept as they are; every other format is stored as PNG.
_KEPT_FORMATS = frozenset(("JPEG", "MPO", "PNG", "WEBP"))
_CHUNK = 64


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
  """What to build; make it with `for_folder`.

  Attributes:
    sets: the listing of the folder.
    class_names: ("void", class 1, ..., class N).
    tables: {set: (256,) uint8}, index on disk to index in class_names.
  """

  # Not in the repr, which TFDS logs: the listing may have a million entries.
  sets: tuple[folder_layout.ImageSet, ...] = dataclasses.field(
    default=(), repr=False
  )
  class_names: tuple[str, ...] = (taxonomy.VOID,)
  tables: dict[str, np.ndarray] = dataclasses.field(
    default_factory=dict, repr=False
  )

  @classmethod
  def for_folder(
    cls,
    folder: str | os.PathLike,
    *,
    sets: Sequence[str] = (),
    exclude: Sequence[str] = (),
    merging=None,
    validation_fraction: float = 0.05,
  ) -> "FolderConfig":
    """Lists a folder, and names the configuration after what it found.

    The name holds a hash of names, sizes and times of modification of all files
    and of the taxonomy, so that a changed folder is a dataset of its own.

    Args:
      folder: see folder_layout.scan.
      sets: see folder_layout.scan.
      exclude: see folder_layout.scan.
      merging: what taxonomy.load accepts.
      validation_fraction: see folder_layout.scan.

    Raises:
      ValueError: from folder_layout.scan, taxonomy.load and Taxonomy.merge.
    """
    merging = taxonomy.load(merging)
    found = folder_layout.scan(
      folder,
      sets=sets,
      exclude=exclude,
      validation_fraction=validation_fraction,
    )
    class_names, tables = merging.merge(
      {image_set.name: image_set.classes for image_set in found}
    )
    key = folder_layout.fingerprint(found, merging.digest())
    return cls(
      name=f"folder_{key}",
      description="Photographs of one folder as it was at one time.",
      sets=found,
      class_names=class_names,
      tables=tables,
    )


class ImageLabelFolder(tfds.core.GeneratorBasedBuilder):
  """A folder of photographs as records of their original bytes."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="Photographs of a folder, with label maps where it has them.",
      features=features.record_features(self.builder_config.class_names),
      metadata=tfds.core.MetadataDict(labelled={}, skipped=[]),
    )

  def _split_generators(self, dl_manager):
    entries = collections.defaultdict(list)
    for image_set in self.builder_config.sets:
      for entry in image_set.entries:
        entries[entry.split].append((entry, image_set))
    # TFDS fails on a split without records, and with a long message.
    for split in list(entries):
      results = (self._read(task) for task in entries[split])
      failure = None
      for result in results:
        if not isinstance(result, ValueError):
          break
        failure = failure or result
      else:
        message = (
          f"none of the {len(entries[split])} pictures of split {split!r} can"
          f" be used; the first: {failure}"
        )
        if split == "train":
          raise ValueError(message)
        logging.warning("%s", message)
        del entries[split]
    return {
      split: self._generate_examples(split, entries[split])
      for split in ("train", "validation")
      if split in entries
    }

  def _generate_examples(self, split, entries):
    metadata = self.info.metadata
    labelled = kept = 0
    progress = tqdm.tqdm(
      total=len(entries),
      desc=f"{self.name} {split}",
      unit="image",
      disable=None,
    )
    with progress, concurrent.futures.ThreadPoolExecutor() as pool:
      for start in range(0, len(entries), _CHUNK):
        chunk = entries[start : start + _CHUNK]
        for (entry, _), result in zip(
          chunk, pool.map(self._read, chunk), strict=True
        ):
          progress.update()
          if isinstance(result, ValueError):
            logging.warning("skipped: %s", result)
            metadata["skipped"].append(str(entry.image))
            continue
          kept += 1
          labelled += result["has_labels"]
          yield entry.key, result
    metadata["labelled"][split] = labelled
    if kept < len(entries):
      logging.warning(
        "%s: %d of %d pictures skipped", split, len(entries) - kept,
        len(entries),
      )  # fmt: skip

  def _read(self, task):
    """The record of one picture, or the ValueError that says what is wrong."""
    entry, image_set = task
    try:
      data, shape = _read_picture(entry.image)
      if entry.label is None:
        label = np.zeros(shape, np.uint8)
      else:
        table = self.builder_config.tables[image_set.name]
        label = table[read_label(entry.label, shape)]
    except ValueError as error:
      return error
    return {
      "image": data,
      "label": features.png(label),
      "has_labels": entry.label is not None,
      "name": entry.key,
    }


def _read_picture(path):
  """(bytes to store, (height, width) as displayed); ValueError if broken."""
  try:
    data = path.read_bytes()
  except OSError as error:
    raise ValueError(f"cannot read {path}: {error.strerror}") from None
  try:
    # All of it: a truncated file is found now and not in the middle of a run.
    pixels = images.read(data)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  with Image.open(io.BytesIO(data)) as image:
    kept = image.format in _KEPT_FORMATS
  return data if kept else features.png(pixels), pixels.shape[:2]


def read_label(path: str | os.PathLike, shape: tuple[int, int]) -> np.ndarray:
  """Reads class indices as they are on disk.

  Args:
    path: an image of one channel, a palette image (its indices), or one of
      equal channels.
    shape: (height, width) of the picture as displayed.

  Returns:
    (height, width) uint8.

  Raises:
    ValueError: unreadable, of another size, or not of class indices.
  """
  try:
    with Image.open(path) as image:
      mode, label = image.mode, np.asarray(image)
  except Exception as error:  # Pillow's decoders raise all sorts of things.
    raise ValueError(f"{path}: unreadable label map: {error}") from None
  if mode == "RGB" and (label == label[..., :1]).all():
    label = label[..., 0]
  if label.ndim != 2:
    raise ValueError(
      f"{path}: a label map of mode {mode}; save class indices as one 8-bit"
      " channel"
    )
  if label.shape != tuple(shape):
    raise ValueError(
      f"{path}: the label map is {label.shape[1]} x {label.shape[0]}, its"
      f" picture {shape[1]} x {shape[0]}"
    )
  if label.min() < 0 or label.max() > 255:
    raise ValueError(
      f"{path}: indices from {label.min()} to {label.max()}; 0..255 are allowed"
    )
  return label.astype(np.uint8)
