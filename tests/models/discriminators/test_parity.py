"""The full-size OASIS-C is the official one."""

import jax
import numpy as np
import official_weights

from egic_jax.interop import official_discriminator
from egic_jax.models.discriminators import oasis_c, presets

CONFIG = presets.get_preset("full")
TOLERANCE = 1e-4  # Of the logits' standard deviation.


def test_full_size_has_the_official_number_of_parameters():
  shapes = oasis_c.param_shapes(CONFIG)
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 22_450_247


def test_logits_equal_the_official_ones():
  with np.load(official_weights.FIXTURES / "parity_codec.npz") as archive:
    image = archive["x"][None].astype(np.float32) / 255.0
    latent = archive["y_hat"]
  with np.load(
    official_weights.FIXTURES / "parity_discriminator.npz"
  ) as archive:
    expected = dict(archive)
  params = official_discriminator.from_official(
    official_weights.weights("discriminator"), CONFIG
  )["discriminator"]

  @jax.jit
  def forward(params, image, latent):
    return oasis_c.segment(CONFIG, params, {}, image, latent)[0]

  logits = np.asarray(forward(params, image, latent))
  assert logits.shape == (1, 256, 256, 135)
  deviation = np.abs(logits[:, ::16, ::16] - expected["logits_stride16"]).max()
  assert deviation < TOLERANCE * expected["std"]
  # Of all pixels, not only every 16th.
  np.testing.assert_allclose(logits.mean(), expected["mean"], rtol=1e-5)
  np.testing.assert_allclose(logits.std(), expected["std"], rtol=1e-5)
