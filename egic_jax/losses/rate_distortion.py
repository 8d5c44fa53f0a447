"""Rate plus distortion: the objective of stage 1.

The official weights count squared error on 0..255: 0.1 * 2^-5 * 0.75 =
0.00234375 times MSE plus lambda times bits per pixel.
"""

import jax
import jax.numpy as jnp

from egic_jax.models import codec


def rate_distortion(
  image: jax.Array,
  output: codec.CodecOutput,
  *,
  distortion_weight: float | jax.Array,
  rate_weight: float,
  image_weight: float | jax.Array = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """distortion_weight * MSE(0..255) + rate_weight * bpp, mean of the batch.

  Args:
    image: (B, H, W, 3) float32 in [0, 1].
    output: the codec's output for it.
    distortion_weight: weight of the mean squared error on 0..255, for all
      images or (B,) for each.
    rate_weight: lambda, weight of the bits per pixel.
    image_weight: of each image's loss, likewise.

  Returns:
    The loss, a scalar, and scalars to report: loss, mse_255 (squared error on
    0..255), psnr (dB, of the batch's mean error, clipped to [0, 1]), bpp,
    y_bpp, z_bpp.
  """
  pixels = image.shape[1] * image.shape[2]
  errors = jnp.mean(jnp.square(output.x_hat - image), axis=(1, 2, 3)) * 255.0**2
  y_bpp = jnp.sum(output.y_bits, axis=-1) / pixels
  z_bpp = output.z_bits / pixels
  losses = distortion_weight * errors + rate_weight * (y_bpp + z_bpp)
  loss = jnp.mean(image_weight * losses)
  shown = jnp.mean(jnp.square(jnp.clip(output.x_hat, 0.0, 1.0) - image))
  return loss, {
    "loss": loss,
    "mse_255": jnp.mean(errors),
    "psnr": -10.0 * jnp.log10(jnp.maximum(shown, 1e-10)),
    "bpp": jnp.mean(y_bpp + z_bpp),
    "y_bpp": jnp.mean(y_bpp),
    "z_bpp": jnp.mean(z_bpp),
  }
