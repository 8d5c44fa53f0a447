"""Datasets by name: built or prepared once, opened as decoded elements."""

import contextlib
import dataclasses
import io
import os
import time
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from egic_jax.data import builders, coco_layout, panoptic, records, taxonomy


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
  """Which dataset to read; empty texts are as good as None.

  Attributes:
    name: "synthetic_scenes", "image_label_folder" or "coco".
    config: of "synthetic_scenes": "default" or "tiny"; of "coco": "default" or
      "2017_panoptic", which are the same.
    data_dir: where TFDS keeps built datasets; None for TFDS's own default
      (TFDS_DATA_DIR, or tensorflow_datasets in the home folder).
    folder: of "image_label_folder": the photographs.
    sets: names of the sub-folders of `folder` to use; empty for all that have
      images/ in them.
    exclude: names of sub-folders of `folder` to leave out.
    taxonomy: how classes are merged: "union", "photographs", a JSON file, or a
      mapping; see taxonomy.load.
    validation_fraction: share for validation where the folder has no lists.
  """

  name: str = "synthetic_scenes"
  config: str = "default"
  data_dir: str | None = None
  folder: str | os.PathLike | None = None
  sets: Sequence[str] = ()
  exclude: Sequence[str] = ()
  taxonomy: str | os.PathLike | Mapping | None = "union"
  validation_fraction: float = 0.05


# All functions below also take the builder that prepare returned: listing a
# large folder takes a while.
Dataset = DatasetSpec | tfds.core.DatasetBuilder


def prepare(dataset: Dataset) -> tfds.core.DatasetBuilder:
  """Returns the builder of a dataset, built first if it is not there yet.

  A dataset appears under its name only when it is complete. Several processes
  may call this at once: the first to finish wins. A folder is listed at every
  call, and built anew when a file of it has changed.

  Args:
    dataset: what to prepare; a builder that this function returned is returned
      as it is.

  Returns:
    A prepared TFDS builder in array_record format.

  Raises:
    ValueError: from the specification or the folder; one line.
  """
  if isinstance(dataset, tfds.core.DatasetBuilder):
    return dataset
  builder = _builder(dataset)
  if builder.data_path.exists():
    return builder
  if dataset.name == "coco":
    # 20 GB are not to be downloaded because of a slip in a configuration.
    raise ValueError(
      f"data_dir = {str(dataset.data_dir or builder.data_dir)!r} holds no"
      f" coco/2017_panoptic; prepare it with: egic prepare-coco --data-dir"
      f" {dataset.data_dir or 'DIRECTORY'}"
    )
  return _build(builder, lambda: _builder(dataset))


def prepare_coco(
  data_dir: str | os.PathLike,
  *,
  directory: str | os.PathLike | None = None,
  allow_subset: bool = False,
) -> tfds.core.DatasetBuilder:
  """Prepares coco/2017_panoptic, unless that was done before.

  Args:
    data_dir: where TFDS is to keep it; about 21 GB.
    directory: files that were downloaded already, see coco_layout.find; None to
      let TFDS download them, about 21 GB more.
    allow_subset: accept other numbers of pictures than COCO 2017 has; the
      command line's --allow-subset.

  Returns:
    The prepared builder, whose classes and counts are as they should be.

  Raises:
    ValueError: in one line, what is missing, damaged or incomplete.
    OSError: the download failed, or the disk is full.
  """
  counts = None if allow_subset else coco_layout.COUNTS

  def make():
    return builders.CocoPanoptic(
      data_dir=os.path.expanduser(data_dir), directory=directory, counts=counts
    )

  builder = make()
  if not builder.data_path.exists():
    builder = _build(builder, make)
  _check_coco(builder)
  for split, count in (counts or {}).items():
    if split_info(builder, split).num_examples != count:
      raise ValueError(
        f"{builder.data_path} has {split_info(builder, split).num_examples:,}"
        f" pictures in split {split!r}, COCO 2017 has {count:,}; remove it and"
        " prepare it again, or choose another --data-dir"
      )
  return builder


def _check_coco(builder):
  """Raises ValueError for a dataset that is prepared, but not usable here."""
  if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
    raise ValueError(
      f"{builder.data_path} is in {builder.info.file_format.value} format, which"
      " needs TensorFlow; prepare it in another data_dir with egic prepare-coco"
    )
  panoptic.check_classes(class_names(builder)[1:])


def _build(builder, make_builder):
  """Builds what is not there yet; the builder, or that of who was faster."""
  start = time.monotonic()
  logging.info("building %s in %s", builder.name, builder.data_dir)
  try:
    # TFDS shows a bar per step of each split and prints what it downloads;
    # ours is one bar a split, on stderr.
    tfds.display_progress_bar(False)
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(file_format="array_record")
  except OSError:
    # Another process has put the same dataset into place meanwhile.
    builder = make_builder()
    if not builder.data_path.exists():
      raise
  sizes = ", ".join(
    f"{info.num_examples} {split}"
    for split, info in builder.info.splits.items()
  )
  skipped = len((builder.info.metadata or {}).get("skipped", ()))
  print(
    f"{builder.name}: {sizes} images"
    f"{f' ({skipped} skipped)' if skipped else ''},"
    f" {len(class_names(builder)) - 1} classes, built in"
    f" {time.monotonic() - start:.0f} s",
    flush=True,
  )
  return builder


def _builder(spec):
  if spec.name == "synthetic_scenes":
    if spec.folder:
      raise ValueError(
        f"folder = {str(spec.folder)!r} has no meaning for name ="
        " 'synthetic_scenes'; use name = 'image_label_folder'"
      )
    known = list(builders.SyntheticScenes.builder_configs)
    if spec.config not in known:
      raise ValueError(f"config = {spec.config!r} is not one of {known}")
    return builders.SyntheticScenes(
      config=spec.config, data_dir=_data_dir(spec), file_format="array_record"
    )
  if spec.name == "image_label_folder":
    if not spec.folder:
      raise ValueError(
        "folder is not set; name = 'image_label_folder' needs a folder of"
        " photographs"
      )
    config = builders.FolderConfig.for_folder(
      spec.folder,
      sets=spec.sets,
      exclude=spec.exclude,
      merging=spec.taxonomy,
      validation_fraction=spec.validation_fraction,
    )
    # TFDS warns of every configuration that is not in its code.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
      return builders.ImageLabelFolder(
        config=config, data_dir=_data_dir(spec), file_format="array_record"
      )
    finally:
      logging.set_verbosity(verbosity)
  if spec.name == "coco":
    if spec.folder:
      raise ValueError(
        f"folder = {str(spec.folder)!r} has no meaning for name = 'coco'; give"
        " it to egic prepare-coco --from"
      )
    if spec.config not in ("default", "2017_panoptic"):
      raise ValueError(f"config = {spec.config!r} is not '2017_panoptic'")
    builder = builders.CocoPanoptic(data_dir=_data_dir(spec))
    if builder.data_path.exists():
      _check_coco(builder)
    return builder
  raise ValueError(
    f"name = {spec.name!r} is not 'synthetic_scenes', 'image_label_folder' or"
    " 'coco'"
  )


def _data_dir(spec):
  return os.path.expanduser(spec.data_dir) if spec.data_dir else None


def class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  """("void", class 1, ..., class N) of a prepared dataset."""
  if builder.name == "coco":
    label = builder.info.features["panoptic_objects"]["label"]
    return (taxonomy.VOID, *label.names)
  return tuple(builder.info.features["label"].names)


def num_records(
  dataset: Dataset, split: str = "train", *, labelled_only: bool = False
) -> int:
  """How many pictures a split has; with label maps if `labelled_only`."""
  builder = prepare(dataset)
  info = split_info(builder, split)
  if labelled_only:
    return _num_labelled(builder, split)
  return info.num_examples


def _num_labelled(builder, split):
  if builder.name == "coco":
    return split_info(builder, split).num_examples
  return builder.info.metadata["labelled"].get(split, 0)


def split_info(
  builder: tfds.core.DatasetBuilder, split: str
) -> tfds.core.SplitInfo:
  """What TFDS knows of a split; ValueError if there is no such split."""
  if split not in builder.info.splits:
    raise ValueError(
      f"split = {split!r}: {builder.name} has {', '.join(builder.info.splits)}"
    )
  return builder.info.splits[split]


def open_source(
  dataset: Dataset,
  split: str,
  *,
  with_labels: bool = True,
  with_weights: bool = False,
  labelled_only: bool = False,
  max_side: int | None = None,
  cache_bytes: int = 0,
) -> records.DecodedSource:
  """Random access to the decoded pictures and maps of a split.

  Args:
    dataset: built if it is not there yet.
    split: "train" or "validation".
    with_labels: see records.decode.
    with_weights: see records.decode.
    labelled_only: pictures without label map are left out.
    max_side: see records.decode.
    cache_bytes: see records.DecodedSource.

  Raises:
    ValueError: naming the argument that is wrong.
  """
  if max_side is not None and max_side < 1:
    raise ValueError(f"max_side = {max_side} is not a positive number")
  builder = prepare(dataset)
  is_coco = builder.name == "coco"
  total = split_info(builder, split).num_examples
  files = ("image", "panoptic_image" if is_coco else "label")
  stored = builder.as_data_source(
    split, decoders={name: tfds.decode.SkipDecoding() for name in files}
  )
  indices = None
  if labelled_only:
    labelled = _num_labelled(builder, split)
    if labelled == 0:
      raise ValueError(
        f"labelled_only: no picture of split {split!r} has a label map; add"
        " labels/ and classes.txt to the folder"
      )
    if labelled < total:
      # One pass over the records; only mixtures of sets need it.
      indices = np.flatnonzero(
        [stored[index]["has_labels"] for index in range(total)]
      )
  return records.DecodedSource(
    stored,
    indices,
    decode_record=records.decode_panoptic if is_coco else records.decode,
    with_labels=with_labels,
    with_weights=with_weights,
    max_side=max_side,
    cache_bytes=cache_bytes,
  )
