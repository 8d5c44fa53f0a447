"""TFDS builders; importing this package registers them with TFDS."""

from egic_jax.data.builders.image_label_folder import (
  FolderConfig,
  ImageLabelFolder,
)
from egic_jax.data.builders.synthetic_scenes import (
  ScenesConfig,
  SyntheticScenes,
)

__all__ = [
  "FolderConfig",
  "ImageLabelFolder",
  "ScenesConfig",
  "SyntheticScenes",
]
