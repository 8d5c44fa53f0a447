"""What a stage starts from when earlier ones give some of it, or nothing."""

import dataclasses

import commands_model
import jax
import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.bitstream import model_file
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import discriminator_file, initial, sharding, stages


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


def test_a_codec_comes_from_a_model_file(tmp_path):
  path = commands_model.save_model(tmp_path / "model.safetensors")
  lines = []
  found = initial.load_codec(path, commands_model.CONFIG, lines.append)
  model = model_file.load_model(path)
  assert micro_training.trees_equal(found, model.params["codec"])
  assert model.fingerprint.hex() in lines[0] and path in lines[0]
  with pytest.raises(ValueError, match="latent|analysis_w.*here") as caught:
    initial.load_codec(path, micro_training.micro_config(), lines.append)
  assert str(caught.value).startswith(f"train.init_from={path}: its codec")


def test_a_discriminator_comes_from_a_file(tmp_path):
  config = micro_training.micro_discriminator()
  params = oasis_c.init_params(config, 3)
  path = str(tmp_path / "d.safetensors")
  discriminator_file.save(path, config, params, "a test")
  found, is_new = initial.load_discriminator(path, config, print)
  assert micro_training.trees_equal(found, params)
  # Its embedding is taken as it is.
  assert not is_new
  other = dataclasses.replace(config, num_classes=4)
  with pytest.raises(ValueError, match=r"num_classes \(3, here 4\)"):
    initial.load_discriminator(path, other, print)


@pytest.mark.parametrize("only_segmented", [True, False])
def test_a_pre_trained_discriminator_is_kept(params, batch, only_segmented):
  config = micro_training.micro_networks().discriminator_config
  trained = oasis_c.init_params(config, 3)
  # What pre-training makes of a label that it never shows.
  trained["logits"]["bias"][-1] = -12.0
  start = initial.Start(
    params | {"discriminator": trained}, only_segmented=only_segmented
  )
  found = _complete(start, "stage2_gan", batch)["discriminator"]
  for name, tree in trained.items():
    kept = micro_training.trees_equal(tree, found[name])
    new = only_segmented and name in ("embedding", "logits")
    assert kept != new, name
  if not only_segmented:
    return
  # Classes are told as before, whatever the latent; "fake" is level with them.
  image = batch["image"] / 255.0
  side = image.shape[1] // config.latent_stride
  latent = jax.random.normal(
    jax.random.key(0), (len(image), side, side, config.latent_channels)
  )
  before, _ = oasis_c.segment(config, trained, {}, image)
  after, _ = oasis_c.segment(config, found, {}, image, latent)
  np.testing.assert_allclose(after[..., :-1], before[..., :-1], atol=1e-5)
  odds = after[..., -1] - jax.nn.logsumexp(after[..., 1:-1], axis=-1)
  assert abs(float(jnp.mean(odds))) < 1e-3


def test_a_codec_of_one_rate_becomes_the_middle_of_many(tmp_path, params):
  config = micro_training.micro_config()
  path = tmp_path / "model.safetensors"
  model_file.save_model(path, model_file.build_model(config, params))
  lines = []
  many = dataclasses.replace(config, rate_levels=3)
  found = initial.load_codec(str(path), many, lines.append)
  rate = found.pop("rate")
  assert micro_training.trees_equal(found, params["codec"])
  assert not np.any(rate["log_gain"][1])
  assert np.all(rate["log_gain"][0] < 0)
  assert "gains for 3 are new" in lines[-1]
  # The way back would lose something.
  path = tmp_path / "many.safetensors"
  model_file.save_model(
    path, model_file.build_model(many, {"codec": found | {"rate": rate}})
  )
  with pytest.raises(ValueError, match="rate_levels"):
    initial.load_codec(str(path), config, lines.append)
