"""Random changes of colour: AutoAugment's simple classification policy.

The policy, its operations and what a magnitude means are those of DeepLab2
(google-research/deeplab2, data/preprocessing), whose input pipeline the
official training uses with "simple_classification_policy_magnitude_scale_0.2".
The idea is that of Cubuk et al., AutoAugment, CVPR 2019. Written anew, on
Pillow; against the original in TensorFlow a sample may differ by 1.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

# The largest magnitude that the policy search could choose.
_MAX_MAGNITUDE = 10.0

# One pair is drawn for a picture; of the pair, each operation is then applied
# with its probability. (operation, probability, magnitude of 10)
_SIMPLE_CLASSIFICATION = (
  (("sharpness", 0.4, 7), ("brightness", 0.2, 10)),
  (("equalize", 0.0, 9), ("contrast", 0.2, 10)),
  (("sharpness", 0.2, 9), ("color", 0.2, 9)),
  (("solarize", 0.2, 7), ("equalize", 0.6, 9)),
  (("sharpness", 0.2, 1), ("equalize", 0.2, 7)),
)


def _scaled(policy, magnitude_scale):
  return tuple(
    tuple((name, chance, size * magnitude_scale) for name, chance, size in pair)
    for pair in policy
  )


# A smaller scale does not mean a smaller change: magnitude 5 leaves a picture
# about as it is (factor 1), and smaller ones make it darker, greyer, blurred.
POLICIES = {
  "simple_classification_0.2": _scaled(_SIMPLE_CLASSIFICATION, 0.2),
  "simple_classification": _scaled(_SIMPLE_CLASSIFICATION, 1.0),
}


def apply_policy(
  image: np.ndarray, policy: tuple, rng: np.random.Generator
) -> np.ndarray:
  """Applies a randomly drawn pair of a policy.

  Args:
    image: (H, W, 3) uint8, not written to.
    policy: pairs of (operation, probability, magnitude), see POLICIES.
    rng: three numbers are drawn from it, whatever comes of them.

  Returns:
    (H, W, 3) uint8; `image` itself when nothing was applied.
  """
  pair = policy[rng.integers(len(policy))]
  for (name, probability, magnitude), chance in zip(
    pair, rng.random(len(pair)), strict=True
  ):
    if chance < probability:
      image = _OPERATIONS[name](image, magnitude)
  return image


def enhancement_factor(magnitude: float) -> float:
  """What color, contrast, brightness and sharpness blend by: 0.1 to 1.9.

  The result is degenerate + factor * (image - degenerate): 0 is all of the
  degenerate picture, 1 the picture itself, more exaggerates.
  """
  return 0.1 + 1.8 * magnitude / _MAX_MAGNITUDE


def color(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Between grey and colourful."""
  return _enhance(ImageEnhance.Color, image, magnitude)


def brightness(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Between black and bright."""
  return _enhance(ImageEnhance.Brightness, image, magnitude)


def sharpness(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Between blurred (3 x 3, the centre weighing 5 of 13) and sharp."""
  return _enhance(ImageEnhance.Sharpness, image, magnitude)


def contrast(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Between a uniform brightness and rich in contrast.

  The uniform brightness should be the mean. The original divides the sum of the
  histogram, which is the number of pixels, by 256, and so blends any picture of
  65,280 pixels or more with white. Kept, as the official model was trained so.
  """
  height, width = image.shape[:2]
  level = min(height * width // 256, 255)
  uniform = Image.new("RGB", (width, height), (level,) * 3)
  factor = enhancement_factor(magnitude)
  return np.array(Image.blend(uniform, Image.fromarray(image), factor))


def solarize(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Inverts samples of 256 * magnitude / 10 and above."""
  threshold = int(256 * magnitude / _MAX_MAGNITUDE)
  return np.where(image < threshold, image, 255 - image)


def equalize(image: np.ndarray, magnitude: float) -> np.ndarray:
  """Flattens the histogram of each channel; has no magnitude."""
  del magnitude
  return np.array(ImageOps.equalize(Image.fromarray(image)))


def _enhance(kind, image, magnitude):
  factor = enhancement_factor(magnitude)
  return np.array(kind(Image.fromarray(image)).enhance(factor))


_OPERATIONS = {
  "brightness": brightness,
  "color": color,
  "contrast": contrast,
  "equalize": equalize,
  "sharpness": sharpness,
  "solarize": solarize,
}
