"""OASIS-C: a segmentation network with one more class, "fake", as critic.

Sushko et al., You Only Need Adversarial Supervision for Semantic Image
Synthesis, ICLR 2021, with weight norm in place of spectral norm and conditioned
on the codec's latent (EGIC, ECCV 2024). A U-Net of residual blocks gives every
pixel N + 2 logits: 0 void (ignored by the losses), the classes 1..N, and N + 1
for "fake".

The network is applied by `segment`; parameters are plain trees, and so is the
state, which only spectral norm has.
"""

import functools
import zlib
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.models import initialization, layers
from egic_jax.models.discriminators import normalized_conv, presets
from egic_jax.ops import convolution, linear, resampling_convolution

# Number of columns of which a product's is a multiple.
_ALIGNED = 8
_SLOPE = 0.2  # Of LeakyReLU below zero.
_INITIAL_POWER_ITERATIONS = 15


def _leaky(x: jax.Array) -> jax.Array:
  return jax.nn.leaky_relu(x, _SLOPE)


def _halve(x: jax.Array) -> jax.Array:
  """Average of 2x2: (B, H, W, C) > (B, H/2, W/2, C)."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return x.mean((2, 4))


def _enlarge(x: jax.Array, factor: int) -> jax.Array:
  """Nearest neighbour: (B, H, W, C) > (B, factor H, factor W, C)."""
  batch, height, width, channels = x.shape
  x = jnp.broadcast_to(
    x[:, :, None, :, None],
    (batch, height, factor, width, factor, channels),
  )
  return x.reshape(batch, height * factor, width * factor, channels)


class ResidualBlock(nn.Module):
  """shortcut + conv2(leaky(conv1(leaky(x)))), at half or twice the resolution.

  Attributes:
    features: output channels; a 1x1 convolution is in the shortcut if the input
      has another number.
    direction: "down" averages 2x2 at the end, "up" repeats 2x2 before conv1.
    first: no LeakyReLU before conv1, since the input is an image.
  """

  features: int
  direction: str
  first: bool
  normalization: str
  calibrating: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = functools.partial(
      normalized_conv.NormalizedConv,
      normalization=self.normalization,
      calibrating=self.calibrating,
      dtype=self.dtype,
    )
    up = self.direction == "up"
    # Pixels are repeated or averaged within a convolution next to it: the same
    # values for less than half the work. But statistics are of what is not
    # averaged yet.
    averaged_within = not up and not self.calibrating
    shortcut = _halve(x) if averaged_within else x
    if x.shape[-1] != self.features:
      shortcut = conv(self.features, 1, name="shortcut")(shortcut)
    first = second = convolution.plain
    if up:
      shortcut = _enlarge(shortcut, 2)
      first = resampling_convolution.conv3x3_of_enlarged
    elif averaged_within:
      second = resampling_convolution.conv3x3_halved
    branch = x if self.first else _leaky(x)
    branch = conv(self.features, 3, name="conv1", function=first)(branch)
    branch = _leaky(branch)
    branch = conv(self.features, 3, name="conv2", function=second)(branch)
    total = shortcut + branch
    return total if up or averaged_within else _halve(total)


class OasisC(nn.Module):
  """Image, and the latent it was made from, to logits.

  Attributes:
    config: the size.
    dtype: type that products are computed in.
    calibrating: see `calibrate`.
  """

  config: presets.DiscriminatorConfig
  dtype: Any = jnp.float32
  calibrating: bool = False

  @nn.compact
  def __call__(
    self, image: jax.Array, latent: jax.Array | None = None
  ) -> jax.Array:
    """See `segment`."""
    config = self.config
    _check(config, image, latent)
    settings = {
      "normalization": config.normalization,
      "calibrating": self.calibrating,
      "dtype": self.dtype,
    }
    # The official network sees 0..255; ours is given [0, 1].
    x = image * config.input_scale + config.input_offset
    x = x.astype(self.dtype)

    embedding = None
    if config.conditioning != "none" and latent is not None:
      embedding = normalized_conv.NormalizedConv(
        config.embedding_width, 3, name="embedding", **settings
      )(jax.lax.stop_gradient(latent))
      embedding = _leaky(embedding)
    if config.conditioning == "concatenation":
      if embedding is None:
        beside = jnp.zeros((*x.shape[:3], config.embedding_width), self.dtype)
      else:
        beside = _enlarge(embedding, config.latent_stride)
      x = jnp.concatenate([x, beside], axis=-1)

    skips = []
    for i, width in enumerate(config.encoder_widths):
      x = ResidualBlock(
        width, "down", first=i == 0, name=f"down_{i}", **settings
      )(x)
      skips.append(x)
    skips.pop()
    for i, width in enumerate(config.decoder_widths):
      if i:
        x = jnp.concatenate([skips.pop(), x], axis=-1)
      x = ResidualBlock(width, "up", first=False, name=f"up_{i}", **settings)(x)

    logits = _label_logits(
      x.astype(self.dtype),
      *layers.ConvParameters(1, config.num_labels, name="logits")(x.shape[-1]),
    )
    if config.conditioning == "projection" and embedding is not None:
      logits = logits + _inner_product(x, embedding)
    return logits


def _label_logits(x, kernel, bias):
  """(B, H, W, C), (1, 1, C, labels), (labels,) > (B, H, W, labels) float32."""
  # GPUs read an odd number of columns one at a time: with zeros, it costs less.
  labels = len(bias)
  kernel = jnp.pad(kernel[0, 0], ((0, 0), (0, -labels % _ALIGNED)))
  logits = linear.product(x, kernel)[..., :labels] + bias.astype(x.dtype)
  return logits.astype(jnp.float32)


def _inner_product(features: jax.Array, embedding: jax.Array) -> jax.Array:
  """(B, H, W, C) and (B, h, w, C), repeated to H, W > (B, H, W, 1) float32."""
  batch, height, width, channels = features.shape
  rows, columns = embedding.shape[1:3]
  tiles = features.astype(jnp.float32).reshape(
    batch, rows, height // rows, columns, width // columns, channels
  )
  product = tiles * embedding.astype(jnp.float32)[:, :, None, :, None]
  return product.sum(-1).reshape(batch, height, width, 1)


def _check(config, image, latent) -> None:
  chex.assert_shape(image, (None, None, None, 3))
  batch, height, width = image.shape[:3]
  if height % config.stride or width % config.stride:
    raise ValueError(
      f"image is {height}x{width}; its sides must be multiples of"
      f" {config.stride}: crop it first"
    )
  if latent is None:
    return
  stride = config.latent_stride
  expected = (batch, height // stride, width // stride, config.latent_channels)
  if latent.shape != expected:
    raise ValueError(
      f"latent has the shape {latent.shape}; for this image and"
      f" latent_channels={config.latent_channels} it must be {expected}"
    )


def segment(
  config: presets.DiscriminatorConfig,
  params: dict[str, Any],
  state: dict[str, Any],
  image: jax.Array,
  latent: jax.Array | None = None,
  *,
  dtype: Any = jnp.float32,
) -> tuple[jax.Array, dict[str, Any]]:
  """Logits of every pixel.

  The projection is one map, added to all logits of a pixel alike, as in the
  official code: a softmax over classes does not see it, LabelMix does.

  Args:
    config: the size.
    params: as from `init_params`.
    state: as from `init_state`; {} unless normalization is "spectral".
    image: (B, H, W, 3) in [0, 1], sides multiples of `config.stride`.
    latent: y_hat (B, H/16, W/16, latent_channels); no gradient reaches it. None
      stands for an embedding of zeros: a plain segmentation network, as in
      pre-training.
    dtype: type that products are computed in; parameters are float32.

  Returns:
    logits (B, H, W, N + 2) float32, and the state after one more power
    iteration. Keep that of one pass in a training step, drop it in evaluation.
  """
  module = OasisC(config, dtype)
  if config.normalization != "spectral":
    return module.apply({"params": params}, image, latent), state
  logits, moved = module.apply(
    {"params": params, normalized_conv.SPECTRAL: state},
    image,
    latent,
    mutable=[normalized_conv.SPECTRAL],
  )
  # What this pass did not touch (no latent: no embedding) stays.
  return logits, {**state, **moved[normalized_conv.SPECTRAL]}


def predicted_labels(
  logits: jax.Array, *, with_fake: bool = False
) -> jax.Array:
  """The likeliest label of every pixel, never void.

  Args:
    logits: (..., N + 2).
    with_fake: consider "fake" (N + 1) too, not only the classes 1..N.

  Returns:
    (...) int32 in 1..N, or 1..N + 1.
  """
  last = logits.shape[-1] - (0 if with_fake else 1)
  return 1 + jnp.argmax(logits[..., 1:last], axis=-1).astype(jnp.int32)


def calibrate(
  config: presets.DiscriminatorConfig,
  params: dict[str, Any],
  image: jax.Array,
  latent: jax.Array | None = None,
) -> dict[str, Any]:
  """Data-dependent initialisation of weight norm (Salimans & Kingma, 2016).

  Layer by layer, each fed with what the layers before it yield once they are
  set: lengths and biases such that every normalised convolution's output has
  zero mean and unit variance over the batch. Pure; jit it to shard the batch.

  Args:
    config: the size; normalization must be "weight".
    params: the parameters so far; directions and the last convolution stay.
    image: (B, H, W, 3) in [0, 1], real images.
    latent: y_hat, or None; without it the embedding's layer stays as it is.

  Returns:
    The new parameters.

  Raises:
    ValueError: nothing to set: normalization is not "weight".
  """
  if config.normalization != "weight":
    raise ValueError(
      f"normalization is {config.normalization!r}; only weight norm is"
      " initialised from data"
    )
  _, changed = OasisC(config, calibrating=True).apply(
    {"params": params}, image, latent, mutable=["params"]
  )
  return changed["params"]


@functools.cache
def _shapes(config: presets.DiscriminatorConfig) -> dict[str, Any]:
  side, stride = config.stride, config.latent_stride
  image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  latent = jax.ShapeDtypeStruct(
    (1, side // stride, side // stride, config.latent_channels), jnp.float32
  )
  return jax.eval_shape(OasisC(config).init, jax.random.key(0), image, latent)


def param_shapes(config: presets.DiscriminatorConfig) -> dict[str, Any]:
  """Tree of jax.ShapeDtypeStruct of the discriminator's parameters."""
  return _shapes(config)["params"]


def init_params(
  config: presets.DiscriminatorConfig, seed: int
) -> dict[str, Any]:
  """Untrained parameters, float32 numpy arrays, drawn on the host by name.

  Weight norm starts with lengths of 1; `calibrate` sets them from data.
  """
  return initialization.draw(param_shapes(config), seed)


def init_state(
  config: presets.DiscriminatorConfig, params: dict[str, Any], seed: int
) -> dict[str, Any]:
  """Spectral norm's singular vectors for these parameters, on the host.

  Args:
    config: the size.
    params: the parameters that the first step starts from.
    seed: non-negative.

  Returns:
    A tree of float32 numpy arrays beside the parameters' own, after 15 power
    iterations; {} unless normalization is "spectral".
  """
  shapes = _shapes(config).get(normalized_conv.SPECTRAL, {})

  def settle(path, shape):
    *layers, _ = [key.key for key in path]
    kernel = params
    for name in (*layers, "kernel"):
      kernel = kernel[name]
    matrix = np.asarray(jax.device_get(kernel)).reshape(-1, *shape.shape)
    rng = np.random.Generator(
      np.random.Philox([seed, zlib.crc32("/".join(layers).encode())])
    )
    u = rng.standard_normal(shape.shape)
    for _ in range(_INITIAL_POWER_ITERATIONS):
      u = matrix.T @ (matrix @ u)
      u /= np.linalg.norm(u) + 1e-12
    return u.astype(np.float32)

  return jax.tree_util.tree_map_with_path(settle, shapes)
