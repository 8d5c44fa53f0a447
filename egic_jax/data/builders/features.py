"""What a record of our builders holds, and how its pictures are encoded."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def record_features(class_names):
  """Features of a record.

  `image` and `label` hold encoded files. TFDS itself decodes them with OpenCV
  when that is installed and with Pillow otherwise, and the two disagree on
  palettes, CMYK and EXIF rotation: read records with SkipDecoding and decode
  with egic_jax.data.records.

  Args:
    class_names: ("void", class 1, ..., class N).
  """
  return tfds.features.FeaturesDict(
    {
      "image": tfds.features.Image(shape=(None, None, 3)),
      "label": tfds.features.LabeledImage(
        labels=list(class_names), shape=(None, None, 1), encoding_format="png"
      ),
      "has_labels": tfds.features.Scalar(np.bool_),
      "name": tfds.features.Text(),
    }
  )


def png(array, compress_level=6):
  """A (H, W) or (H, W, 3) uint8 array as the bytes of a PNG file."""
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, "PNG", compress_level=compress_level)
  return buffer.getvalue()
