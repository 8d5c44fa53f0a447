"""TFDS builder of painted landscapes with dense label maps; no download."""

import concurrent.futures
import dataclasses

import tensorflow_datasets as tfds
import tqdm

from egic_jax.data import scenes
from egic_jax.data.builders import features


@dataclasses.dataclass(eq=False)
class ScenesConfig(tfds.core.BuilderConfig):
  """How many scenes, and how large.

  Attributes:
    train_scenes: number of scenes of the split "train".
    validation_scenes: number of scenes of the split "validation".
    height: pixels.
    width: pixels.
    seed: another seed, other scenes; keep it in `name` too.
  """

  train_scenes: int = 256
  validation_scenes: int = 32
  height: int = 320
  width: int = 320
  seed: int = 0


class SyntheticScenes(tfds.core.GeneratorBasedBuilder):
  """Procedural landscapes: sky, mountains, water, trees, houses, balls, ..."""

  # Change it whenever the painter changes: TFDS rebuilds then.
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [
    ScenesConfig(name="default", description="256 + 32 scenes, 320 x 320."),
    ScenesConfig(
      name="tiny",
      description="12 + 4 scenes, 96 x 96, for tests.",
      train_scenes=12,
      validation_scenes=4,
      height=96,
      width=96,
    ),
  ]

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description="Procedural landscapes with dense semantic label maps.",
      features=features.record_features(scenes.CLASSES),
      metadata=tfds.core.MetadataDict(labelled={}),
      # The order of records is that of their keys: scenes are independent.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    sizes = {
      "train": config.train_scenes,
      "validation": config.validation_scenes,
    }
    self.info.metadata["labelled"] = sizes
    return {
      split: self._generate_examples(number, split, size)
      for number, (split, size) in enumerate(sizes.items())
    }

  def _generate_examples(self, split_number, split, size):
    config = self.builder_config

    def record(index):
      image, label = scenes.paint_scene(
        (config.seed, split_number, index), config.height, config.width
      )
      return index, {
        # Level 1 is three times as fast and costs 1 % of space.
        "image": features.png(image, compress_level=1),
        "label": features.png(label),
        "has_labels": True,
        "name": f"{split}/{index:06d}",
      }

    with concurrent.futures.ThreadPoolExecutor() as pool:
      yield from tqdm.tqdm(
        pool.map(record, range(size)),
        f"{self.name} {split}",
        total=size,
        unit="scene",
        disable=None,
      )
