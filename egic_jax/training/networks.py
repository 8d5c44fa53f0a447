"""The networks of a stage, applied to one tree of variables.

Variables are the parameter tree {"codec", "orp", "discriminator"} as far as a
stage has it, beside "spectral" (spectral norm's vectors, {} without) and "lpips"
(its weights, if configured).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from egic_jax.models import codec as codec_lib
from egic_jax.models import orp as orp_lib
from egic_jax.models import presets, swin
from egic_jax.models.discriminators import normalized_conv, oasis_c
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import qualities

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Networks:
  """Sizes of the networks and the type they compute in.

  Attributes:
    codec_config: the codec's size.
    discriminator_config: OASIS-C's size; None in stages without it.
    dtype: type of activations, and of products unless `execution` says another.
    execution: how Swin blocks of the codec and the ORP head are evaluated.
  """

  codec_config: presets.CodecConfig
  discriminator_config: discriminator_presets.DiscriminatorConfig | None = None
  dtype: Any = jnp.float32
  execution: swin.Execution = swin.Execution()

  @property
  def codec(self) -> codec_lib.Codec:
    """The codec's module."""
    return codec_lib.Codec(self.codec_config, self.dtype, self.execution)

  @property
  def num_classes(self) -> int:
    """N: labels are 0 for void, 1..N, and N + 1 for "fake"."""
    return self.discriminator_config.num_classes

  def code(
    self,
    variables: Variables,
    image: jax.Array,
    key: jax.Array | None = None,
    quality: jax.Array | None = None,
  ) -> codec_lib.CodecOutput:
    """Image (B, H, W, 3) in [0, 1] through the codec; see `Codec.__call__`."""
    return self.codec.apply({"params": variables["codec"]}, image, key, quality)

  def draw_qualities(self, key: jax.Array, count: int) -> jax.Array | None:
    """Random qualities of *count* images; None for a codec of one rate."""
    levels = self.codec_config.rate_levels
    return qualities.draw(key, count, levels) if levels else None

  def spread_qualities(self, count: int) -> jax.Array | None:
    """The same qualities each time, of *count* images; None likewise."""
    return qualities.spread(count, self.codec_config.rate_levels)

  def both_outputs(
    self, variables: Variables, y_hat: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """y_hat > (x_gan of g_s, x_mse of the ORP head), each (B, H, W, 3)."""
    params = {"params": variables["codec"]}
    features = self.codec.apply(params, y_hat, method="synthesis_features")
    x_gan = self.codec.apply(params, features, method="synthesis_last_stage")
    head = orp_lib.OrpHead(self.codec_config, self.dtype, self.execution)
    return x_gan, head.apply({"params": variables["orp"]}, features)

  def segment(
    self,
    variables: Variables,
    image: jax.Array,
    latent: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Logits (B, H, W, N + 2) of an image, and "spectral" after this pass."""
    spectral = variables.get("spectral", {})
    logits, moved = oasis_c.segment(
      self.discriminator_config,
      variables["discriminator"],
      spectral.get("discriminator", {}),
      image,
      latent,
      dtype=self.dtype,
    )
    return logits, {"discriminator": moved} if spectral else {}

  def param_shapes(self, groups: tuple[str, ...]) -> dict[str, Any]:
    """Trees of jax.ShapeDtypeStruct of these groups of parameters."""
    codec = codec_lib.param_shapes(self.codec_config)
    make = {
      "codec": lambda: codec,
      "orp": lambda: orp_lib.init_from_synthesis(codec),
      "discriminator": lambda: oasis_c.param_shapes(self.discriminator_config),
    }
    return {group: make[group]() for group in groups}

  def init_spectral(self, params: Variables, seed: int) -> dict[str, Any]:
    """Spectral norm's vectors for these parameters; {} where it is not used."""
    config = self.discriminator_config
    if "discriminator" not in params or config.normalization != "spectral":
      return {}
    state = oasis_c.init_state(config, params["discriminator"], seed)
    return {"discriminator": state}

  def spectral_shapes(self, shapes: Variables) -> dict[str, Any]:
    """Shapes of what `init_spectral` gives; *shapes* are the parameters'."""
    config = self.discriminator_config
    if "discriminator" not in shapes or config.normalization != "spectral":
      return {}
    side, stride = config.stride, config.latent_stride
    variables = jax.eval_shape(
      oasis_c.OasisC(config).init,
      jax.random.key(0),
      jnp.zeros((1, side, side, 3)),
      jnp.zeros((1, side // stride, side // stride, config.latent_channels)),
    )
    return {"discriminator": variables[normalized_conv.SPECTRAL]}
