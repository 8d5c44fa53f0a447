"""TFDS's coco/2017_panoptic without TensorFlow, and from files one has."""

import concurrent.futures
import contextlib
import io
import itertools
import os
import pathlib
import sys
import types
from collections.abc import Mapping

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from PIL import Image
from tensorflow_datasets.object_detection import coco

from egic_jax.data import coco_layout, panoptic

CONFIG = "2017_panoptic"
_CHUNK = 64
# Between two lines about progress where no one sits before a screen.
_LOG_SECONDS = 30


# Not registered: its records are those of TFDS's own builder, under its name.
class CocoPanoptic(coco.Coco, skip_registration=True):
  """The builder `coco` of TFDS: same name, version, features and records.

  It needs no TensorFlow, takes files that were downloaded already, looks at
  every file, and refuses an incomplete dataset.
  """

  name = "coco"

  def __init__(
    self,
    *,
    data_dir: str | None = None,
    directory: str | os.PathLike | None = None,
    counts: Mapping[str, int] | None = None,
  ):
    """Reads what is prepared, or gets ready to.

    Args:
      data_dir: where TFDS keeps built datasets; None for its own default.
      directory: where the downloaded files are, see coco_layout.find; None to
        let TFDS download them.
      counts: {split: number of pictures that there must be}; None for any.
    """
    self._directory = directory
    self._counts = counts
    self._stack = None
    # No file_format: TFDS would refuse another one in words of its own.
    super().__init__(config=CONFIG, data_dir=data_dir)

  def __getstate__(self):
    # TFDS makes a builder that was pickled anew from its arguments.
    return {"data_dir": self._original_state["data_dir"]}

  def __setstate__(self, state):
    self.__init__(**state)

  def _info(self):
    # The one use that the module makes of TensorFlow is the name of a type.
    original = coco.tf
    coco.tf = types.SimpleNamespace(int64=np.int64)
    try:
      return super()._info()
    finally:
      coco.tf = original

  def download_and_prepare(self, **options):
    """See the base class."""
    # Holds unpacked annotations open until all is built.
    with contextlib.ExitStack() as self._stack:
      super().download_and_prepare(**options)

  def _split_generators(self, dl_manager):
    if self._directory is None:
      # Hours of downloading want a progress bar; what follows has one of ours.
      tfds.enable_progress_bar()
      try:
        return super()._split_generators(dl_manager)
      finally:
        tfds.disable_progress_bar()
    scratch = pathlib.Path(self.data_dir).parent
    scratch.mkdir(parents=True, exist_ok=True)
    found = self._stack.enter_context(
      coco_layout.find(self._directory, scratch)
    )
    for split, files in found.items():
      self._check_counts(split, files)
    return [
      tfds.core.SplitGenerator(
        name=split,
        gen_kwargs={
          "image_dir": os.fspath(files.pictures.parent),
          "annotation_dir": os.fspath(files.annotation.parent.parent),
          "split_name": coco_layout.SPLITS[split],
          "annotation_type": coco.AnnotationType.PANOPTIC,
          "panoptic_dir": os.fspath(files.masks),
        },
      )
      for split, files in found.items()
    ]

  def _check_counts(self, split, files):
    """Finds in a second what would be missed after an hour."""
    for folder, suffix in ((files.pictures, ".jpg"), (files.masks, ".png")):
      with coco_layout.Files(folder) as opened:
        count = opened.count(suffix)
      if self._counts is not None and count < self._counts[split]:
        raise ValueError(
          f"{folder} has {count:,} of {self._counts[split]:,} {suffix} files;"
          " download the rest, or give --allow-subset"
        )

  def _generate_examples(
    self, image_dir, annotation_dir, split_name, annotation_type, panoptic_dir
  ):
    split = {v: k for k, v in coco_layout.SPLITS.items()}[split_name]
    expected = self._counts and self._counts[split]
    examples = super()._generate_examples(
      image_dir, annotation_dir, split_name, annotation_type, panoptic_dir
    )
    count = 0
    with (
      coco_layout.Files(pathlib.Path(image_dir, split_name)) as pictures,
      coco_layout.Files(pathlib.Path(panoptic_dir)) as masks,
      concurrent.futures.ThreadPoolExecutor() as pool,
      tqdm.tqdm(
        desc=f"coco {split}", total=expected, unit="image", **_progress()
      ) as progress,
    ):

      def load(keyed):
        key, example = keyed
        return key, _with_contents(example, pictures, masks)

      while chunk := list(itertools.islice(examples, _CHUNK)):
        if count == 0:
          # The base class has read the names of the classes by now.
          panoptic.check_classes(
            self.info.features["panoptic_objects"]["label"].names
          )
        for item in pool.map(load, chunk):
          progress.update()
          count += 1
          yield item
    if expected is not None and count != expected:
      raise ValueError(
        f"panoptic_{split_name}.json lists {count:,} pictures, COCO 2017 has"
        f" {expected:,}; use the published one"
      )
    print(f"coco {split}: writing {count:,} records", file=sys.stderr)


def _progress():
  """Options of a bar: lively for a person, a line now and then in a log."""
  if sys.stderr.isatty():
    return {}
  return {"delay": _LOG_SECONDS, "mininterval": _LOG_SECONDS}


def _with_contents(example, pictures, masks):
  """example with files in place of their paths; ValueError if one is bad."""
  contents = {
    "image": pictures.read(example["image/filename"]),
    "panoptic_image": masks.read(example["panoptic_image/filename"]),
  }
  sizes = []
  for name, data in contents.items():
    try:
      with Image.open(io.BytesIO(data)) as image:
        sizes.append(image.size)
        # All of a JPEG is read at an eighth of the size: truncation is found
        # in a third of the time.
        image.draft("RGB", (image.width // 8, image.height // 8))
        image.load()
    except Exception as error:  # Pillow's decoders raise all sorts of things.
      raise ValueError(
        f"{example[f'{name}/filename']}: unreadable: {error}; download it again"
      ) from None
  if sizes[0] != sizes[1]:
    raise ValueError(
      f"{example['image/filename']}: a picture of {sizes[0]}, its panoptic map"
      f" of {sizes[1]}; download both again"
    )
  return {**example, **contents}
