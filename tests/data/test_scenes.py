import numpy as np
import pytest

from egic_jax.data import scenes


def test_deterministic_by_seed():
  first, label = scenes.paint_scene((3, 5), 64, 80)
  again, label_again = scenes.paint_scene((3, 5), 64, 80)
  other, _ = scenes.paint_scene((3, 6), 64, 80)
  assert first.shape == (64, 80, 3) and label.shape == (64, 80)
  assert first.dtype == label.dtype == np.uint8
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(label, label_again)
  assert np.abs(first.astype(int) - other).mean() > 5


def test_all_classes_occur_and_have_a_look_of_their_own():
  pictures = [scenes.paint_scene((0, seed), 96, 96) for seed in range(60)]
  labels = np.concatenate([label.ravel() for _, label in pictures])
  pixels = np.concatenate([image.reshape(-1, 3) for image, _ in pictures])
  counts = np.bincount(labels, minlength=len(scenes.CLASSES))
  assert len(counts) == len(scenes.CLASSES)
  assert (counts > 0).all(), dict(zip(scenes.CLASSES, counts, strict=True))
  # Void is the exception.
  assert counts[0] < 0.01 * counts.sum()
  sky = pixels[labels == scenes.CLASSES.index("sky")].mean(0)
  meadow = pixels[labels == scenes.CLASSES.index("meadow")].mean(0)
  assert sky[2] > meadow[2] + 40  # bluer


def test_spectrum_is_that_of_photographs():
  """The amplitude falls about as 1/f, neither blank nor white noise."""
  slopes = []
  for seed in range(12):
    image, _ = scenes.paint_scene((1, seed), 128, 128)
    grey = image.mean(-1)
    window = np.hanning(128)[:, None] * np.hanning(128)
    spectrum = np.abs(np.fft.fft2((grey - grey.mean()) * window))
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(128) * 128] * 2))
    bands = [
      spectrum[(radius >= low) & (radius < 2 * low)].mean()
      for low in (4, 8, 16, 32)
    ]
    slopes.append(np.polyfit(np.arange(4), np.log2(bands), 1)[0])
  assert -1.7 < np.mean(slopes) < -0.6, slopes


def test_small_sizes_are_refused():
  with pytest.raises(ValueError, match="16 x 64"):
    scenes.paint_scene(0, 16, 64)
