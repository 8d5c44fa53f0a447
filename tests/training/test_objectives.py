"""The stages' losses against the loss functions, put together by hand."""

import jax
import jax.numpy as jnp
import lpips_arrays
import micro_training
import numpy as np
import pytest

from egic_jax.interop import lpips_weights
from egic_jax.losses import labelmix, perceptual, segmentation
from egic_jax.models import codec as codec_lib
from egic_jax.models import orp
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import objectives

_WEIGHTS = objectives.LossWeights(
  distortion=0.01, rate=3.0, lpips=2.0, adversarial=0.5, labelmix=7.0
)


@pytest.fixture(scope="module")
def networks():
  return micro_training.micro_networks()


@pytest.fixture(scope="module")
def batch():
  batch = next(micro_training.make_iterator(2))
  assert {0, 1, 2, 3} == set(np.unique(batch["label"]))
  assert set(np.unique(batch["weight"])) == {0, 1, 3}
  return {name: jnp.asarray(array) for name, array in batch.items()}


@pytest.fixture(scope="module")
def variables(networks, params, batch):
  config = networks.discriminator_config
  image = batch["image"] / 255.0
  output = networks.code(params, image)
  # Calibrated, so that real and fake are far apart for it.
  discriminator = oasis_c.calibrate(
    config, oasis_c.init_params(config, 3), image, output.y_hat
  )
  lpips = lpips_weights.from_arrays(lpips_arrays.whole("alex"), "alex")
  head = orp.init_from_synthesis(params["codec"])
  return {
    "codec": params["codec"],
    "orp": jax.tree.map(lambda x: x + 0.01, head),
    "discriminator": discriminator,
    "lpips": lpips,
    "spectral": {},
  }


@pytest.fixture(scope="module")
def passes(networks, variables, batch):
  """Everything that the losses are made of, one pass after the other."""
  image = batch["image"].astype(jnp.float32) / 255.0
  codec = codec_lib.Codec(networks.codec_config)
  output = codec.apply({"params": variables["codec"]}, image)

  def segment(picture):
    logits, _ = oasis_c.segment(
      networks.discriminator_config,
      variables["discriminator"],
      {},
      picture,
      output.y_hat,
    )
    return logits

  key = jax.random.key(5)
  mask = labelmix.draw_mask(key, batch["label"], 3)
  assert 0 < float(mask.mean()) < 1
  return {
    "key": key,
    "image": image,
    "output": output,
    "mask": mask,
    "real": segment(image),
    "fake": segment(output.x_hat),
    "mixed": segment(labelmix.mix(mask, image, output.x_hat)),
  }


def _discriminator_loss(batch, passes, real, fake):
  weights = batch["weight"].astype(jnp.float32)
  mask, mixed = passes["mask"], passes["mixed"]
  return {
    "d_real": jnp.mean(
      segmentation.cross_entropy(real, batch["label"], weights)
    ),
    "d_fake": jnp.mean(segmentation.fake_cross_entropy(fake)),
    "d_labelmix": jnp.mean(
      jnp.square(mixed - (mask * real + (1 - mask) * fake))
    ),
  }


def test_discriminator(networks, variables, batch, passes):
  losses = objectives.make_losses(networks, _WEIGHTS)
  loss, (scalars, spectral) = losses["adversarial_discriminator"](
    variables, batch, passes["key"]
  )
  terms = _discriminator_loss(batch, passes, passes["real"], passes["fake"])
  for name, value in terms.items():
    np.testing.assert_allclose(scalars[name], value, rtol=1e-5, err_msg=name)
  total = terms["d_real"] + terms["d_fake"] + 7.0 * terms["d_labelmix"]
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  assert spectral == {}
  # Real and fake mistaken for each other is another value, in every term.
  swapped = _discriminator_loss(batch, passes, passes["fake"], passes["real"])
  for name, value in swapped.items():
    assert abs(float(value) / float(terms[name]) - 1) > 1e-3, name


def test_generator(networks, variables, batch, passes):
  losses = objectives.make_losses(networks, _WEIGHTS)
  loss, (scalars, _) = losses["adversarial_generator"](
    variables, batch, passes["key"]
  )
  image, x_hat = passes["image"], passes["output"].x_hat
  mse_255 = jnp.mean(jnp.square((x_hat - image) * 255))
  lpips = jnp.mean(perceptual.lpips(variables["lpips"], x_hat, image))
  adversarial = jnp.mean(
    segmentation.cross_entropy(
      passes["fake"], batch["label"], batch["weight"].astype(jnp.float32)
    )
  )
  # The rate is that of noisy latents, as in stage 1.
  noisy = networks.code(variables, image, passes["key"])
  bpp = jnp.mean(noisy.y_bits.sum(-1) + noisy.z_bits) / 64**2
  expected = 0.01 * mse_255 + 3.0 * bpp + 2.0 * lpips + 0.5 * adversarial
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(scalars["adversarial"], adversarial, rtol=1e-5)
  np.testing.assert_allclose(scalars["lpips"], lpips, rtol=1e-5)
  np.testing.assert_allclose(scalars["mse_255"], mse_255, rtol=1e-5)
  np.testing.assert_allclose(scalars["loss"], loss)

  # The warm-up with LPIPS is the same without the discriminator.
  warm_up, _ = losses["rate_distortion_lpips"](variables, batch, passes["key"])
  np.testing.assert_allclose(warm_up, expected - 0.5 * adversarial, rtol=1e-5)
  # With weight 0 none of it is needed.
  plain = objectives.make_losses(
    networks, objectives.LossWeights(distortion=0.01, rate=3.0)
  )["rate_distortion_lpips"]
  without = {"codec": variables["codec"]}
  value, (scalars, _) = plain(without, batch, passes["key"])
  np.testing.assert_allclose(value, 0.01 * mse_255 + 3.0 * bpp, rtol=1e-5)
  assert "lpips" not in scalars


@pytest.mark.parametrize("pixel_weights", objectives.PIXEL_WEIGHTS)
def test_segmentation(networks, variables, batch, pixel_weights):
  weights = objectives.LossWeights(pixel_weights=pixel_weights)
  losses = objectives.make_losses(networks, weights)
  loss, (scalars, _) = losses["segmentation"](variables, batch, None)
  logits, _ = oasis_c.segment(
    networks.discriminator_config,
    variables["discriminator"],
    {},
    batch["image"] / 255.0,
  )
  label = np.asarray(batch["label"])
  pixels = {
    "none": np.ones(label.shape),
    "small_instances": np.asarray(batch["weight"], float),
    # Three classes are there; void is neither a class nor counted.
    "class_balanced": label.size / (3 * np.bincount(label.ravel())[label]),
  }[pixel_weights]
  log_p = np.asarray(jax.nn.log_softmax(logits))
  nll = -np.take_along_axis(log_p, label[..., None].astype(int), -1)[..., 0]
  known = label > 0
  expected = np.mean(
    [(nll * pixels * known)[i].sum() / known[i].sum() for i in range(2)]
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-4)
  right = (log_p[..., 1:4].argmax(-1) + 1 == label)[known].mean()
  np.testing.assert_allclose(scalars["accuracy"], right, rtol=1e-6)


def test_residual_prediction_is_of_the_head_alone(
  networks, variables, batch, passes
):
  losses = objectives.make_losses(networks, _WEIGHTS)
  loss, (scalars, _) = losses["residual_prediction"](variables, batch, None)
  x_gan, x_mse = networks.both_outputs(variables, passes["output"].y_hat)
  np.testing.assert_allclose(x_gan, passes["output"].x_hat, atol=1e-5)
  mse_255 = jnp.mean(jnp.square((x_mse - passes["image"]) * 255))
  np.testing.assert_allclose(loss, 0.01 * mse_255, rtol=1e-5)
  assert float(scalars["psnr"]) != pytest.approx(float(scalars["psnr_gan"]))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"lpips": -1.0}, "loss.lpips_weight=-1.0"),
    ({"labelmix": float("nan")}, "loss.labelmix_weight=nan"),
    ({"pixel_weights": "some"}, "loss.pixel_weights=some.*class_balanced"),
    ({"lpips_network": "resnet"}, "loss.lpips_network.*alex"),
  ],
)
def test_bad_weights_are_named(changes, message):
  with pytest.raises(ValueError, match=message):
    objectives.LossWeights(**changes)
