"""TFDS builders; importing this package registers ours with TFDS."""

from egic_jax.data.builders.coco_panoptic import CocoPanoptic
from egic_jax.data.builders.image_label_folder import (
  FolderConfig,
  ImageLabelFolder,
)
from egic_jax.data.builders.synthetic_scenes import (
  ScenesConfig,
  SyntheticScenes,
)

__all__ = [
  "CocoPanoptic",
  "FolderConfig",
  "ImageLabelFolder",
  "ScenesConfig",
  "SyntheticScenes",
]
