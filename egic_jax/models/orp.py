"""Output Residual Prediction: from lowest distortion to highest realism.

EGIC section 3.3: a second last stage of g_s, fed with the same features behind
a stop-gradient, predicts the image of least squared error; the decoder mixes
the two outputs as it likes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from egic_jax.models import presets, swin, transforms
from egic_jax.ops import extents


class OrpHead(nn.Module):
  """Features of the last stage of g_s > x_mse (B, H, W, 3), about [0, 1]."""

  config: presets.CodecConfig
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  @nn.compact
  def __call__(
    self, features: jax.Array, valid: extents.Extent | None = None
  ) -> jax.Array:
    head = transforms.synthesis_last_stage(
      self.config, self.dtype, "head", self.execution
    )
    return head(jax.lax.stop_gradient(features), valid)


def init_from_synthesis(codec_params: dict) -> dict:
  """ORP parameters copied from the last stage of g_s, as stage 3 starts."""
  stages = codec_params["synthesis"]
  last = max(stages, key=lambda name: int(name.removeprefix("stage_")))
  return {"head": jax.tree.map(lambda p: p, stages[last])}


def interpolate(
  x_gan: jax.Array, x_mse: jax.Array, alpha: float | jax.Array
) -> jax.Array:
  """x_gan + (1 - alpha) (x_mse - x_gan): alpha 1 is g_s, alpha 0 the head."""
  return x_gan + (1.0 - alpha) * (x_mse - x_gan)
