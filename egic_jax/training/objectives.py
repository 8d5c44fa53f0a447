"""The losses of the stages, as pure functions of variables, batch and key.

EGIC sections 3.2 and 3.3; the official constants are in configs/base.py. What
they report is not weighted, so that runs with different weights compare.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.losses import labelmix as labelmix_lib
from egic_jax.losses import perceptual, rate_distortion, segmentation
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import networks as networks_lib
from egic_jax.training import qualities

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
# (variables, batch, key) > (loss, (scalars to report, "spectral" afterwards)).
Loss = Callable[
  [networks_lib.Variables, Batch, jax.Array],
  tuple[jax.Array, tuple[Metrics, dict[str, Any]]],
]

PIXEL_WEIGHTS = ("none", "small_instances", "class_balanced")


@dataclasses.dataclass(frozen=True)
class LossWeights:
  """How the terms add up; see configs/base.py, section loss.

  Attributes:
    distortion: of the mean squared error on 0..255.
    distortion_range: of a codec with levels of quality, instead: at the lowest
      and at the highest; between them the logarithm is linear in quality.
    rate: lambda, of the bits per pixel.
    lpips: of LPIPS; 0 for a training without, which needs no weights of it.
    lpips_network: "alex" or "vgg".
    adversarial: of the generator's cross-entropy.
    labelmix: of LabelMix.
    pixel_weights: of the cross-entropies: one of `PIXEL_WEIGHTS`.
  """

  distortion: float = 0.00234375
  distortion_range: tuple[float, float] = (0.00025, 0.03)
  rate: float = 1.0
  lpips: float = 0.0
  lpips_network: str = "alex"
  adversarial: float = 0.15
  labelmix: float = 10.0
  pixel_weights: str = "small_instances"

  def __post_init__(self):
    for name in ("distortion", "rate", "lpips", "adversarial", "labelmix"):
      value = getattr(self, name)
      if not value >= 0:
        raise ValueError(f"loss.{name}_weight={value}: must not be negative")
    lowest, highest = self.distortion_range
    if not 0 < lowest < highest:
      raise ValueError(
        f"loss.distortion_range={self.distortion_range}: must be two positive"
        " numbers, the smaller one first"
      )
    if self.pixel_weights not in PIXEL_WEIGHTS:
      raise ValueError(
        f"loss.pixel_weights={self.pixel_weights}: must be one of"
        f" {', '.join(PIXEL_WEIGHTS)}"
      )
    try:
      perceptual.network(self.lpips_network)
    except ValueError as error:
      raise ValueError(f"loss.lpips_network: {error}") from None


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [0, 1], any shape."""
  return image.astype(jnp.float32) / 255.0


def make_losses(
  networks: networks_lib.Networks, weights: LossWeights
) -> dict[str, Loss]:
  """All losses by the names that stages use.

  Batches are {"image": (B, H, W, 3) uint8}, those of a segmentation with
  "label" (B, H, W) uint8 and "weight" of the same shape and type.

  Args:
    networks: the networks; those that a loss needs.
    weights: of the terms.

  Returns:
    Loss by name.
  """

  def rate_distortion_(variables, batch, key):
    loss, scalars, _, _ = rate_distortion_terms(variables, batch, key)
    return loss, (scalars, variables.get("spectral", {}))

  def rate_distortion_lpips(variables, batch, key):
    loss, scalars, image, output = rate_distortion_terms(variables, batch, key)
    loss, scalars = add_lpips(loss, scalars, variables, image, output)
    return loss, (scalars, variables.get("spectral", {}))

  def rate_distortion_terms(variables, batch, key):
    image = to_float(batch["image"])
    quality = networks.draw_qualities(key, len(image))
    output = networks.code(variables, image, key, quality)
    distortion, image_weight = distortion_weights(quality)
    loss, scalars = rate_distortion.rate_distortion(
      image,
      output,
      distortion_weight=distortion,
      rate_weight=weights.rate,
      image_weight=image_weight,
    )
    return loss, scalars, image, output

  def distortion_weights(quality):
    if quality is None:
      return weights.distortion, 1.0
    levels = networks.codec_config.rate_levels
    return qualities.distortion_weights(
      quality, levels, *weights.distortion_range
    )

  def add_lpips(loss, scalars, variables, image, output):
    if not weights.lpips:
      return loss, scalars
    distance = jnp.mean(
      perceptual.lpips(
        variables["lpips"],
        output.x_hat,
        image,
        network_name=weights.lpips_network,
        dtype=networks.dtype,
      )
    )
    loss = loss + weights.lpips * distance
    return loss, scalars | {"loss": loss, "lpips": distance}

  def pixel_weights(batch):
    if weights.pixel_weights == "none":
      return None
    if weights.pixel_weights == "class_balanced":
      return segmentation.class_balanced_weights(
        batch["label"], networks.num_classes
      )
    return batch["weight"].astype(jnp.float32)

  def cross_entropy(logits, batch):
    return jnp.mean(
      segmentation.cross_entropy(logits, batch["label"], pixel_weights(batch))
    )

  def segmentation_(variables, batch, _):
    image = to_float(batch["image"])
    logits, spectral = networks.segment(variables, image, None)
    loss = cross_entropy(logits, batch)
    accuracy = _accuracy(oasis_c.predicted_labels(logits), batch["label"])
    return loss, ({"loss": loss, "accuracy": accuracy}, spectral)

  def adversarial_discriminator(variables, batch, key):
    image = to_float(batch["image"])
    quality = networks.draw_qualities(key, len(image))
    output = networks.code(variables, image, quality=quality)
    fake = jax.lax.stop_gradient(output.x_hat)
    mask = labelmix_lib.draw_mask(key, batch["label"], networks.num_classes)
    mixed = labelmix_lib.mix(mask, image, fake)
    # One pass for the three: larger products, one program for the compiler and
    # one power iteration. Side by side rather than one after the other, so
    # that on a mesh each device keeps its own pictures.
    logits, spectral = networks.segment(
      variables,
      _interleave(image, fake, mixed),
      jnp.repeat(output.y_hat, 3, axis=0),
    )
    real_logits, fake_logits, mixed_logits = _separate(logits, 3)
    real = cross_entropy(real_logits, batch)
    fakes = jnp.mean(segmentation.fake_cross_entropy(fake_logits))
    consistency = labelmix_lib.labelmix(
      mask, mixed_logits, real_logits, fake_logits
    )
    loss = real + fakes + weights.labelmix * consistency
    fake_label = networks.discriminator_config.fake_label
    found = oasis_c.predicted_labels(fake_logits, with_fake=True) == fake_label
    scalars = {
      "d_loss": loss,
      "d_real": real,
      "d_fake": fakes,
      "d_labelmix": consistency,
      "d_accuracy": _accuracy(
        oasis_c.predicted_labels(real_logits, with_fake=True), batch["label"]
      ),
      "d_fakes_found": jnp.mean(found.astype(jnp.float32)),
    }
    return loss, (scalars, spectral)

  def adversarial_generator(variables, batch, key):
    loss, scalars, image, output = rate_distortion_terms(variables, batch, key)
    loss, scalars = add_lpips(loss, scalars, variables, image, output)
    # The discriminator's own pass moves its spectral vectors, not this one.
    logits, _ = networks.segment(variables, output.x_hat, output.y_hat)
    adversarial = cross_entropy(logits, batch)
    loss = loss + weights.adversarial * adversarial
    return loss, (
      scalars | {"loss": loss, "adversarial": adversarial},
      variables.get("spectral", {}),
    )

  def residual_prediction(variables, batch, key):
    image = to_float(batch["image"])
    quality = networks.draw_qualities(key, len(image))
    y_hat = networks.code(variables, image, quality=quality).y_hat
    x_gan, x_mse = networks.both_outputs(variables, y_hat)
    errors = jnp.mean(jnp.square(x_mse - image), axis=(1, 2, 3)) * 255.0**2
    distortion, image_weight = distortion_weights(quality)
    loss = jnp.mean(image_weight * distortion * errors)
    scalars = {
      "loss": loss,
      "mse_255": jnp.mean(errors),
      "psnr": _psnr(x_mse, image),
      "psnr_gan": _psnr(x_gan, image),
    }
    return loss, (scalars, variables.get("spectral", {}))

  return {
    "segmentation": segmentation_,
    "rate_distortion": rate_distortion_,
    "rate_distortion_lpips": rate_distortion_lpips,
    "adversarial_discriminator": adversarial_discriminator,
    "adversarial_generator": adversarial_generator,
    "residual_prediction": residual_prediction,
  }


def _interleave(*arrays: jax.Array) -> jax.Array:
  """n arrays (B, ...) > (n B, ...), the first pictures of all first."""
  stacked = jnp.stack(arrays, axis=1)
  return stacked.reshape(-1, *stacked.shape[2:])


def _separate(array: jax.Array, count: int) -> list[jax.Array]:
  """Inverse of `_interleave`."""
  stacked = array.reshape(-1, count, *array.shape[1:])
  return [stacked[:, i] for i in range(count)]


def _accuracy(predicted: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of the pixels that are not void whose label is found."""
  labels = labels.astype(jnp.int32)
  known = labels != segmentation.VOID_LABEL
  right = jnp.sum((predicted == labels) & known)
  return right / jnp.maximum(jnp.sum(known), 1)


def _psnr(image: jax.Array, reference: jax.Array) -> jax.Array:
  error = jnp.mean(jnp.square(jnp.clip(image, 0.0, 1.0) - reference))
  return -10.0 * jnp.log10(jnp.maximum(error, 1e-10))
