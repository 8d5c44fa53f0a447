"""From a dataset to batches: built if need be, shuffled, cut, per process.

No TensorFlow: records are read through tfds.data_source's array_record files.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from egic_jax.data import augment, builders, records


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSpec:
  """Which dataset to read; empty texts are as good as None.

  Attributes:
    name: "synthetic_scenes" or "image_label_folder".
    config: of "synthetic_scenes": "default" or "tiny".
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
  if not builder.data_path.exists():
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
      builder = _builder(dataset)
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
  raise ValueError(
    f"name = {spec.name!r} is not 'synthetic_scenes' or 'image_label_folder'"
  )


def _data_dir(spec):
  return os.path.expanduser(spec.data_dir) if spec.data_dir else None


def class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
  """("void", class 1, ..., class N) of a prepared dataset."""
  return tuple(builder.info.features["label"].names)


def num_records(
  dataset: Dataset, split: str = "train", *, labelled_only: bool = False
) -> int:
  """How many pictures a split has; with label maps if `labelled_only`."""
  builder = prepare(dataset)
  info = _split_info(builder, split)
  if labelled_only:
    return builder.info.metadata["labelled"].get(split, 0)
  return info.num_examples


def _split_info(builder, split):
  if split not in builder.info.splits:
    raise ValueError(
      f"split = {split!r}: {builder.name} has {', '.join(builder.info.splits)}"
    )
  return builder.info.splits[split]


def _source(
  dataset, split, *, labelled_only, with_labels, max_side, cache_bytes=0
):
  if max_side is not None and max_side < 1:
    raise ValueError(f"max_side = {max_side} is not a positive number")
  builder = prepare(dataset)
  total = _split_info(builder, split).num_examples
  stored = builder.as_data_source(
    split,
    decoders={
      "image": tfds.decode.SkipDecoding(),
      "label": tfds.decode.SkipDecoding(),
    },
  )
  indices = None
  if labelled_only:
    labelled = builder.info.metadata["labelled"].get(split, 0)
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
    with_labels=with_labels,
    max_side=max_side,
    cache_bytes=cache_bytes,
  )


def _local_batch_size(global_batch_size, shard_index, shard_count):
  if not 0 <= shard_index < shard_count:
    raise ValueError(
      f"shard_index = {shard_index} is not in [0, shard_count = {shard_count})"
    )
  if global_batch_size < 1 or global_batch_size % shard_count:
    raise ValueError(
      f"global_batch_size = {global_batch_size} is not a positive multiple of"
      f" the {shard_count} processes; choose one that is"
    )
  return global_batch_size // shard_count


def make_train_iterator(
  dataset: Dataset,
  *,
  split: str = "train",
  global_batch_size: int,
  crop_size: int = 256,
  seed: int = 0,
  shard_index: int = 0,
  shard_count: int = 1,
  scale_range: tuple[float, float] = (1.0, 1.0),
  scale_step: float = 0.0,
  flip: bool = True,
  padding: str = "reflect",
  max_side: int | None = None,
  with_labels: bool = True,
  labelled_only: bool = False,
  num_threads: int = 2,
  prefetch: int = 4,
  cache_decoded: bool = False,
  cache_bytes: int = 4 << 30,
) -> grain.DatasetIterator:
  """An endless, shuffled iterator of training batches for one process.

  Order and crops depend on the seed alone: batch k of all processes together
  is always the same global batch, whatever shard_count is. The iterator's state
  (get_state, set_state, or grain.checkpoint.CheckpointSave in Orbax) is the
  number of batches taken; it says nothing of the dataset, so store
  dataset_identity beside it.

  Args:
    dataset: built if it is not there yet.
    split: "train" or "validation".
    global_batch_size: over all processes.
    crop_size: side of the squares, pixels.
    seed: of order, crops, flips and scales.
    shard_index: number of this process.
    shard_count: number of processes.
    scale_range: see augment.RandomCrop.
    scale_step: see augment.RandomCrop.
    flip: see augment.RandomCrop.
    padding: see augment.cut.
    max_side: larger pictures are first reduced to this longer side.
    with_labels: batches have "label".
    labelled_only: pictures without label map are left out.
    num_threads: threads that decode and cut, each a batch at a time; 0 for
      none.
    prefetch: batches in memory ahead of the one returned.
    cache_decoded: keep decoded pictures in memory.
    cache_bytes: the most memory for that.

  Returns:
    Iterator of {"image": (B, crop_size, crop_size, 3) uint8, "label": (B,
    crop_size, crop_size) uint8} with B = global_batch_size / shard_count.

  Raises:
    ValueError: naming the argument that is wrong.
  """
  batch_size = _local_batch_size(global_batch_size, shard_index, shard_count)
  if num_threads < 0 or prefetch < 1:
    raise ValueError(
      f"num_threads = {num_threads}, prefetch = {prefetch}: expected at least"
      " 0 and 1"
    )
  crop = augment.RandomCrop(
    crop_size=crop_size,
    scale_range=tuple(scale_range),
    scale_step=scale_step,
    flip=flip,
    padding=padding,
  )
  source = _source(
    dataset,
    split,
    labelled_only=labelled_only,
    with_labels=with_labels,
    max_side=max_side,
    cache_bytes=cache_bytes if cache_decoded else 0,
  )
  elements = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
  # Slicing comes after random_map: the random numbers follow the index at that
  # stage, and slicing first would give every process the same ones.
  elements = elements.random_map(crop)[shard_index::shard_count]
  batches = elements.batch(batch_size, drop_remainder=True)
  # The buffer counts batches; grain's default of 500 would fill the memory.
  return iter(
    batches.to_iter_dataset(
      grain.ReadOptions(
        num_threads=num_threads,
        prefetch_buffer_size=prefetch if num_threads else 0,
      )
    )
  )


def dataset_identity(
  dataset: Dataset,
  *,
  split: str = "train",
  global_batch_size: int,
  crop_size: int = 256,
  seed: int = 0,
  scale_range: tuple[float, float] = (1.0, 1.0),
  scale_step: float = 0.0,
  flip: bool = True,
  padding: str = "reflect",
  max_side: int | None = None,
  labelled_only: bool = False,
) -> str:
  """What make_train_iterator's batches depend on, as one string.

  Equal strings mean that a stored iterator state continues the same sequence.
  Paths, threads, caches, the number of processes
  and whether label maps are handed out do not count. The dataset
  counts by its classes and by number and bytes of its records, so that a copy
  on another machine is the same dataset.

  Args:
    dataset: built if it is not there yet.
    split: this and all others: as given to make_train_iterator.

  Returns:
    "<name>/<split>:<records>:<16 hexadecimal digits>".
  """
  builder = prepare(dataset)
  info = _split_info(builder, split)
  content = {
    "name": builder.name,
    "version": str(builder.version),
    "classes": class_names(builder),
    "records": info.num_examples,
    "bytes": info.num_bytes,
    "shards": list(info.shard_lengths),
    "split": split,
    "global_batch_size": global_batch_size,
    "crop_size": crop_size,
    "seed": seed,
    "scale_range": [float(scale) for scale in scale_range],
    "scale_step": float(scale_step),
    "flip": bool(flip),
    "padding": padding,
    "max_side": max_side,
    "labelled_only": bool(labelled_only),
  }
  text = json.dumps(content, sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:16]
  return f"{builder.name}/{split}:{info.num_examples}:{digest}"


class EvalBatches:
  """A fixed, finite sequence of batches; iterate as often as wanted.

  All batches have the same shape, so that one compiled program serves them:
  the last is filled up with copies, which `valid` marks.
  """

  def __init__(self, elements, *, total, batch_size, shard, num_threads):
    self._elements = elements
    self._total = total
    self._batch_size = batch_size
    self._shard_index, self._shard_count = shard
    self._num_threads = num_threads

  def __len__(self) -> int:
    return -(-self._total // (self._batch_size * self._shard_count))

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    with concurrent.futures.ThreadPoolExecutor(
      max(1, self._num_threads)
    ) as pool:
      for number in range(len(self)):
        first = number * self._batch_size * self._shard_count
        wanted = (
          first
          + self._shard_index
          + self._shard_count * np.arange(self._batch_size)
        )
        indices = np.minimum(wanted, self._total - 1)
        batch = collections.defaultdict(list)
        for element in pool.map(self._elements, indices.tolist()):
          for name, array in element.items():
            batch[name].append(array)
        batch = {name: np.stack(arrays) for name, arrays in batch.items()}
        yield {**batch, "valid": wanted < self._total}


def make_eval_batches(
  dataset: Dataset,
  *,
  split: str = "validation",
  global_batch_size: int,
  crop_size: int = 256,
  shard_index: int = 0,
  shard_count: int = 1,
  max_images: int | None = None,
  padding: str = "reflect",
  max_side: int | None = None,
  with_labels: bool = True,
  labelled_only: bool = False,
  num_threads: int = 2,
) -> EvalBatches:
  """The middle squares of a split, always the same and in the same order.

  Args:
    dataset: built if it is not there yet.
    split: "train" or "validation".
    global_batch_size: over all processes.
    crop_size: side of the squares, pixels.
    shard_index: number of this process.
    shard_count: number of processes; all get the same number of batches.
    max_images: use the first so many pictures; None for all.
    padding: see augment.cut.
    max_side: larger pictures are first reduced to this longer side.
    with_labels: batches have "label".
    labelled_only: pictures without label map are left out.
    num_threads: threads that decode.

  Returns:
    Iterable with a length, of {"image": (B, crop_size, crop_size, 3) uint8,
    "label": (B, crop_size, crop_size) uint8, "valid": (B,) bool}.

  Raises:
    ValueError: naming the argument that is wrong.
  """
  batch_size = _local_batch_size(global_batch_size, shard_index, shard_count)
  if max_images is not None and max_images < 1:
    raise ValueError(f"max_images = {max_images} is not a positive number")
  source = _source(
    dataset,
    split,
    labelled_only=labelled_only,
    with_labels=with_labels,
    max_side=max_side,
  )

  def element(index):
    return augment.centre_crop(source[index], crop_size, padding)

  return EvalBatches(
    element,
    total=min(len(source), max_images or len(source)),
    batch_size=batch_size,
    shard=(shard_index, shard_count),
    num_threads=num_threads,
  )
