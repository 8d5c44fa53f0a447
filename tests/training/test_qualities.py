"""Qualities of a batch, and what they weigh."""

import dataclasses

import jax
import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.models import codec as codec_lib
from egic_jax.training import objectives, qualities


def test_each_part_of_the_range_has_one_image():
  drawn = np.stack(
    [qualities.draw(jax.random.key(i), 4, 9) for i in range(200)]
  )
  parts = np.floor((drawn - 1) / 2)
  assert np.array_equal(parts, np.broadcast_to(range(4), parts.shape))
  # Uniform within each.
  np.testing.assert_allclose(
    np.mean((drawn - 1) / 2 - parts, 0), 0.5, atol=0.08
  )


def test_the_noise_is_drawn_with_another_key():
  key = jax.random.key(3)
  place = (qualities.draw(key, 5, 2) - 1) * 5 - jnp.arange(5)
  assert not np.allclose(place, jax.random.uniform(key, (5,)))


@pytest.mark.parametrize(
  ("count", "levels", "expected"),
  [(3, 5, [1, 3, 5]), (1, 8, [4.5]), (2, 0, None)],
)
def test_spread(count, levels, expected):
  found = qualities.spread(count, levels)
  assert expected is None if found is None else list(found) == expected


def test_weights_are_geometric_and_level_losses():
  quality = jnp.array([1.0, 2.0, 3.0])
  weight, image_weight = qualities.distortion_weights(quality, 3, 0.01, 0.16)
  np.testing.assert_allclose(weight, [0.01, 0.04, 0.16], rtol=1e-5)
  np.testing.assert_allclose(image_weight, [2, 1, 0.5], rtol=1e-5)


def test_losses_weigh_each_image_by_its_quality():
  networks = micro_training.micro_networks()
  config = dataclasses.replace(networks.codec_config, rate_levels=3)
  networks = dataclasses.replace(networks, codec_config=config)
  weights = objectives.LossWeights(rate=3.0, distortion_range=(0.001, 0.1))
  codec = codec_lib.init_codec_params(config, 1)
  rng = np.random.default_rng(0)
  batch = {
    "image": jnp.asarray(rng.integers(0, 256, (2, 64, 64, 3)), jnp.uint8)
  }
  key = jax.random.key(4)
  loss, _ = objectives.make_losses(networks, weights)["rate_distortion"](
    {"codec": codec}, batch, key
  )
  quality = qualities.draw(key, 2, 3)
  image = batch["image"] / 255.0
  output = codec_lib.Codec(config).apply({"params": codec}, image, key, quality)
  expected = 0.0
  for i in range(2):
    weight = 0.001 * 100 ** ((float(quality[i]) - 1) / 2)
    error = np.mean((np.asarray(output.x_hat - image)[i] * 255) ** 2)
    bits = float(output.y_bits[i].sum() + output.z_bits[i]) / 64**2
    expected += (weight * error + 3 * bits) * np.sqrt(0.01 / weight) / 2
  assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_a_range_that_is_none_is_refused():
  with pytest.raises(ValueError, match="distortion_range"):
    objectives.LossWeights(distortion_range=(0.1, 0.01))
