"""What a stage starts from when earlier ones give some of it, or nothing."""

import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.models.discriminators import oasis_c
from egic_jax.training import initial, sharding, stages


@pytest.fixture(scope="module")
def batch():
  mesh = sharding.make_mesh(1)
  return sharding.global_batch(next(micro_training.make_iterator()), mesh)


def _complete(start, stage_name, batch, **changes):
  return initial.complete(
    start,
    stages.get_stage(stage_name),
    micro_training.micro_networks(**changes),
    seed=7,
    batch=batch,
    mesh=sharding.make_mesh(1),
  )


def test_the_orp_head_is_a_copy_of_the_last_synthesis_stage(params, batch):
  found = _complete(initial.Start(params), "stage3_orp", batch)
  assert found.keys() == {"codec", "orp"}
  assert micro_training.trees_equal(found["codec"], params["codec"])
  last = params["codec"]["synthesis"]["stage_3"]
  assert micro_training.trees_equal(found["orp"]["head"], last)


def test_a_new_discriminator_is_initialised_from_data(batch):
  found = _complete(initial.Start(), "stage0_discriminator", batch)
  assert found.keys() == {"discriminator"}
  networks = micro_training.micro_networks()
  config = networks.discriminator_config
  drawn = oasis_c.init_params(config, 7)
  calibrated = oasis_c.calibrate(config, drawn, batch["image"] / 255.0)
  for layer in ("conv1", "conv2"):
    for leaf in ("kernel", "scale", "bias"):
      np.testing.assert_allclose(
        found["discriminator"]["up_0"][layer][leaf],
        calibrated["up_0"][layer][leaf],
        rtol=1e-3,
        atol=1e-5,
      )
  assert not np.allclose(calibrated["up_0"]["conv1"]["scale"], 1.0)
  # There is nothing to see for its latent's layer yet.
  assert jnp.all(found["discriminator"]["embedding"]["scale"] == 1.0)
  plain = _complete(
    initial.Start(), "stage0_discriminator", batch, normalization="none"
  )
  expected = oasis_c.init_params(
    micro_training.micro_networks(normalization="none").discriminator_config, 7
  )
  assert micro_training.trees_equal(plain["discriminator"], expected)


@pytest.mark.parametrize("embedding_is_new", [True, False])
def test_a_pre_trained_discriminator_is_kept(params, batch, embedding_is_new):
  config = micro_training.micro_networks().discriminator_config
  trained = oasis_c.init_params(config, 3)
  start = initial.Start(
    params | {"discriminator": trained}, embedding_is_new=embedding_is_new
  )
  found = _complete(start, "stage2_gan", batch)["discriminator"]
  for name, tree in trained.items():
    kept = micro_training.trees_equal(tree, found[name])
    assert kept == (name != "embedding" or not embedding_is_new), name
