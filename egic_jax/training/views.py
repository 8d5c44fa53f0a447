"""What a panel shows of a stage, as pure functions of variables and batch."""

import colorsys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.losses import labelmix as labelmix_lib
from egic_jax.models import orp
from egic_jax.models.discriminators import oasis_c
from egic_jax.training import networks as networks_lib
from egic_jax.training import objectives

# (variables, {"image": (N, H, W, 3) uint8, ["label": (N, H, W) uint8]}) >
# (title > pictures (N, H, W, 3) uint8, "title/unit" > numbers (N,)).
View = Callable[
  [networks_lib.Variables, objectives.Batch],
  tuple[dict[str, jax.Array], dict[str, jax.Array]],
]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def make_views(networks: networks_lib.Networks) -> dict[str, View]:
  """All views by the names that stages use."""

  def reconstruction(variables, batch):
    image = batch["image"]
    x_hat, bpp, _ = _reconstruct(networks, variables, image)
    return (
      {"input": image, "output": x_hat},
      {"output/bpp": bpp, "output/psnr": _psnr(x_hat, image)},
    )

  def segmentation(variables, batch):
    image, labels = batch["image"], batch["label"].astype(jnp.int32)
    logits, _ = networks.segment(variables, objectives.to_float(image), None)
    predicted = oasis_c.predicted_labels(logits)
    return (
      {
        "input": image,
        "labels": _paint(labels, networks),
        "segmentation": _paint(predicted, networks),
      },
      {"segmentation/accuracy": _accuracy(predicted, labels)},
    )

  def adversarial(variables, batch):
    image, labels = batch["image"], batch["label"].astype(jnp.int32)
    x_hat, bpp, y_hat = _reconstruct(networks, variables, image)

    def segmented(picture):
      logits, _ = networks.segment(
        variables, objectives.to_float(picture), y_hat
      )
      return oasis_c.predicted_labels(logits, with_fake=True)

    # The same coins each time, so that panels of one run compare.
    mask = labelmix_lib.draw_mask(
      jax.random.key(0), labels, networks.num_classes
    )
    real, fake = segmented(image), segmented(x_hat)
    fake_label = networks.discriminator_config.fake_label
    return (
      {
        "input": image,
        "output": x_hat,
        "labels": _paint(labels, networks),
        "D(input)": _paint(real, networks),
        "D(output)": _paint(fake, networks),
        "LabelMix": jnp.broadcast_to(
          (mask * 255).astype(jnp.uint8), image.shape
        ),
      },
      {
        "output/bpp": bpp,
        "output/psnr": _psnr(x_hat, image),
        "D(input)/accuracy": _accuracy(real, labels),
        "D(output)/fake": jnp.mean(fake == fake_label, axis=(1, 2)),
      },
    )

  def alpha_sweep(variables, batch):
    image = batch["image"]
    output = networks.code(
      variables,
      objectives.to_float(image),
      quality=networks.spread_qualities(len(image)),
    )
    x_gan, x_mse = networks.both_outputs(variables, output.y_hat)
    pictures, numbers = {"input": image}, {}
    for alpha in ALPHAS:
      title = f"alpha {alpha:.2f}"
      pictures[title] = _to_uint8(orp.interpolate(x_gan, x_mse, alpha))
      numbers[f"{title}/psnr"] = _psnr(pictures[title], image)
    return pictures, numbers

  return {
    "reconstruction": reconstruction,
    "segmentation": segmentation,
    "adversarial": adversarial,
    "alpha_sweep": alpha_sweep,
  }


def palette(num_classes: int) -> np.ndarray:
  """Colours of labels: black for void, far hues for classes, white for fake.

  Args:
    num_classes: N.

  Returns:
    (N + 2, 3) uint8.
  """
  colours = [(0.0, 0.0, 0.0)]
  for i in range(num_classes):
    # Steps of the golden ratio keep neighbours apart.
    hue = (i * 0.618034) % 1.0
    colours.append(colorsys.hsv_to_rgb(hue, (0.9, 0.55)[i % 2], 0.85))
  colours.append((1.0, 1.0, 1.0))
  return np.round(np.array(colours) * 255).astype(np.uint8)


def _paint(labels, networks):
  return jnp.asarray(palette(networks.num_classes))[labels]


def _reconstruct(networks, variables, image):
  """(reconstruction uint8, bpp (N,) estimated with rounded latents, y_hat)."""
  output = networks.code(
    variables,
    objectives.to_float(image),
    quality=networks.spread_qualities(len(image)),
  )
  pixels = image.shape[1] * image.shape[2]
  bpp = (output.y_bits.sum(-1) + output.z_bits) / pixels
  return _to_uint8(output.x_hat), bpp, output.y_hat


def _to_uint8(image):
  return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _psnr(image, reference):
  difference = image.astype(jnp.float32) - reference.astype(jnp.float32)
  error = jnp.mean(jnp.square(difference), axis=(1, 2, 3))
  return 10.0 * jnp.log10(255.0**2 / jnp.maximum(error, 1e-6))


def _accuracy(predicted, labels):
  known = labels != 0
  right = jnp.sum((predicted == labels) & known, axis=(1, 2))
  return right / jnp.maximum(jnp.sum(known, axis=(1, 2)), 1)
