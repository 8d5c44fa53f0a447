"""From a dataset to batches: shuffled, cut, per process.

No TensorFlow: records are read through tfds.data_source's array_record files.
"""

import collections
import concurrent.futures
import hashlib
import json
from collections.abc import Iterator

import grain
import numpy as np

from egic_jax.data import augment, worker_processes
from egic_jax.data.datasets import (
  Dataset,
  DatasetSpec,
  class_names,
  num_records,
  open_source,
  prepare,
  split_info,
)

# Who makes batches needs no other module of this package.
__all__ = [
  "Dataset",
  "DatasetSpec",
  "EvalBatches",
  "class_names",
  "dataset_identity",
  "make_eval_batches",
  "make_train_iterator",
  "num_records",
  "prepare",
]


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


def _longer_side(max_side, enlarge):
  if enlarge and max_side is None:
    raise ValueError("enlarge needs max_side, the longer side to enlarge to")
  return max_side if enlarge else None


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
  enlarge: bool = False,
  color_policy: str = "",
  with_labels: bool = True,
  with_weights: bool = False,
  labelled_only: bool = False,
  num_threads: int = 2,
  num_workers: int = 0,
  prefetch: int = 4,
  cache_decoded: bool = False,
  cache_bytes: int = 4 << 30,
) -> grain.DatasetIterator:
  """An endless, shuffled iterator of training batches for one process.

  Order and crops depend on the seed alone: batch k of all processes together
  is always the same global batch, whatever shard_count is. The iterator's state
  (get_state, set_state, or grain.checkpoint.CheckpointSave in Orbax) is the
  number of batches taken; it says nothing of the dataset, so store
  dataset_identity beside it. Neither depends on the number of worker processes.

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
    enlarge: smaller pictures are enlarged to max_side, too.
    color_policy: see augment.RandomCrop.
    with_labels: batches have "label".
    with_weights: batches have "weight", by which to weigh a loss of each pixel.
    labelled_only: pictures without label map are left out.
    num_threads: threads that decode and cut, each a batch at a time; 0 for
      none.
    num_workers: further processes that do so, each with num_threads; 0 for
      this one. They take seconds to start; close the iterator when done.
    prefetch: batches in memory ahead of the one returned, in each worker.
    cache_decoded: keep decoded pictures in memory, in each worker.
    cache_bytes: the most memory for that, over all workers.

  Returns:
    Iterator of {"image": (B, crop_size, crop_size, 3) uint8, "label": (B,
    crop_size, crop_size) uint8, 0 void, "weight": of the same shape and type, 0
    void, 3 small instances (coco only), 1 others}, with
    B = global_batch_size / shard_count.

  Raises:
    ValueError: naming the argument that is wrong.
  """
  batch_size = _local_batch_size(global_batch_size, shard_index, shard_count)
  if num_threads < 0 or num_workers < 0 or prefetch < 1:
    raise ValueError(
      f"num_threads = {num_threads}, num_workers = {num_workers}, prefetch ="
      f" {prefetch}: expected at least 0, 0 and 1"
    )
  crop = augment.RandomCrop(
    crop_size=crop_size,
    scale_range=tuple(scale_range),
    scale_step=scale_step,
    flip=flip,
    padding=padding,
    longer_side=_longer_side(max_side, enlarge),
    color_policy=color_policy,
  )
  source = open_source(
    dataset,
    split,
    labelled_only=labelled_only,
    with_labels=with_labels,
    with_weights=with_weights,
    max_side=max_side,
    cache_bytes=cache_bytes // max(num_workers, 1) if cache_decoded else 0,
  )
  elements = grain.MapDataset.source(source).seed(seed).shuffle().repeat(None)
  # Slicing comes after random_map: the random numbers follow the index at that
  # stage, and slicing first would give every process the same ones. Each process
  # takes consecutive elements, which is how the processes' rows join into the
  # global array: the batch is the same, row by row, for any number of them.
  batches = elements.random_map(crop).batch(batch_size, drop_remainder=True)
  batches = batches[shard_index::shard_count]
  # The buffer counts batches; grain's default of 500 would fill the memory.
  read_options = grain.ReadOptions(
    num_threads=num_threads,
    prefetch_buffer_size=prefetch if num_threads else 0,
  )
  if num_workers:
    return worker_processes.WorkerIterator(
      batches,
      num_workers=num_workers,
      read_options=read_options,
      buffer_size=prefetch,
    )
  return iter(batches.to_iter_dataset(read_options))


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
  enlarge: bool = False,
  color_policy: str = "",
  labelled_only: bool = False,
) -> str:
  """What make_train_iterator's batches depend on, as one string.

  Equal strings mean that a stored iterator state continues the same sequence.
  Paths, threads, caches, the number of processes
  and whether labels and weights are handed out do not count. The dataset
  counts by its classes and by number and bytes of its records, so that a copy
  on another machine is the same dataset.

  Args:
    dataset: built if it is not there yet.
    split: this and all others: as given to make_train_iterator.

  Returns:
    "<name>/<split>:<records>:<16 hexadecimal digits>".
  """
  builder = prepare(dataset)
  info = split_info(builder, split)
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
  # Later options count when used, so that older runs keep their identity.
  if enlarge:
    content["enlarge"] = True
  if color_policy:
    content["color_policy"] = color_policy
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
  enlarge: bool = False,
  with_labels: bool = True,
  with_weights: bool = False,
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
    enlarge: smaller pictures are enlarged to max_side, too.
    with_labels: batches have "label".
    with_weights: batches have "weight"; see make_train_iterator.
    labelled_only: pictures without label map are left out.
    num_threads: threads that decode.

  Returns:
    Iterable with a length, of {"image": (B, crop_size, crop_size, 3) uint8,
    "label": (B, crop_size, crop_size) uint8, "weight": the same, "valid": (B,)
    bool}.

  Raises:
    ValueError: naming the argument that is wrong.
  """
  batch_size = _local_batch_size(global_batch_size, shard_index, shard_count)
  if max_images is not None and max_images < 1:
    raise ValueError(f"max_images = {max_images} is not a positive number")
  source = open_source(
    dataset,
    split,
    labelled_only=labelled_only,
    with_labels=with_labels,
    with_weights=with_weights,
    max_side=max_side,
  )
  longer_side = _longer_side(max_side, enlarge)

  def element(index):
    return augment.centre_crop(source[index], crop_size, padding, longer_side)

  return EvalBatches(
    element,
    total=min(len(source), max_images or len(source)),
    batch_size=batch_size,
    shard=(shard_index, shard_count),
    num_threads=num_threads,
  )
