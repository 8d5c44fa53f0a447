"""Sizes of the discriminator: `full` is the paper's, the others are ours.

A size is data. Nothing in the project tests for a preset's name.
"""

import dataclasses
from typing import Any

from egic_jax.models import size_json

CONDITIONINGS = ("projection", "concatenation", "none")
NORMALIZATIONS = ("weight", "spectral", "none")


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
  """Everything that decides the shape of OASIS-C's parameters.

  Attributes:
    encoder_widths: channels of the blocks on the way down, first to last; each
      halves the resolution.
    decoder_widths: channels of the blocks on the way up, as many. The last one
      is the number of features that the logits are made of.
    num_classes: N, the semantic classes without void: labels 1..N.
    latent_channels: channels of y_hat; the codec's `latent_channels`.
    conditioning: how y_hat enters: "projection" (official: the inner product of
      its embedding with the last features is added to every logit),
      "concatenation" (its embedding stands beside the image at the input, as in
      HiFiC), or "none".
    embedding_width: channels of y_hat's embedding; for "projection" that of
      the last features.
    normalization: of the convolutions: "weight" (official), "spectral", "none".
      The last convolution, to the logits, has none.
    input_scale, input_offset: the network is fed with
      input_scale * image + input_offset, the image in [0, 1]. The official
      network sees 0..255.
  """

  encoder_widths: tuple[int, ...] = (128, 128, 256, 256, 512, 512)
  decoder_widths: tuple[int, ...] = (512, 256, 256, 128, 128, 64)
  num_classes: int = 133
  latent_channels: int = 320
  conditioning: str = "projection"
  embedding_width: int = 64
  normalization: str = "weight"
  input_scale: float = 255.0
  input_offset: float = 0.0

  def __post_init__(self):
    for name in (
      "encoder_widths",
      "decoder_widths",
      "num_classes",
      "latent_channels",
      "embedding_width",
    ):
      value = getattr(self, name)
      values = value if isinstance(value, tuple) else (value,)
      if not values or not all(type(v) is int and v > 0 for v in values):
        raise ValueError(
          f"{name} must be positive whole numbers, got {value!r}"
        )
    if len(self.encoder_widths) != len(self.decoder_widths):
      raise ValueError(
        f"encoder_widths has {len(self.encoder_widths)} entries and"
        f" decoder_widths {len(self.decoder_widths)}; give as many"
      )
    for name, known in (
      ("conditioning", CONDITIONINGS),
      ("normalization", NORMALIZATIONS),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name} must be one of {', '.join(known)},"
          f" got {getattr(self, name)!r}"
        )
    if (
      self.conditioning == "projection"
      and self.embedding_width != self.decoder_widths[-1]
    ):
      raise ValueError(
        f"embedding_width is {self.embedding_width}; for projection it must be"
        f" the last of decoder_widths, {self.decoder_widths[-1]}"
      )

  @property
  def num_labels(self) -> int:
    """Logits of a pixel, N + 2: void, the classes 1..N, fake."""
    return self.num_classes + 2

  @property
  def fake_label(self) -> int:
    """The label of generated pixels, N + 1."""
    return self.num_classes + 1

  @property
  def latent_stride(self) -> int:
    """Pixels per element of y_hat along a side."""
    return 16

  @property
  def stride(self) -> int:
    """The image's sides must be multiples of this."""
    return max(2 ** len(self.encoder_widths), self.latent_stride)


_PRESETS = {
  # Exactly the official one: 22,450,247 parameters, 135 logits; 47 GMAC for a
  # picture of 256 x 256.
  "full": DiscriminatorConfig(),
  # A quarter of the widths: a twelfth of the compute (most of it is at the full
  # resolution, where the logits' features cannot be as few).
  "small": DiscriminatorConfig(
    encoder_widths=(24, 32, 64, 64, 128, 128),
    decoder_widths=(128, 64, 64, 32, 32, 32),
    latent_channels=160,
    embedding_width=32,
  ),
  # Compiles in seconds, trains on a CPU in minutes: 1 GMAC.
  "tiny": DiscriminatorConfig(
    encoder_widths=(12, 16, 24, 32),
    decoder_widths=(32, 24, 16, 16),
    latent_channels=96,
    embedding_width=16,
  ),
}


def preset_names() -> tuple[str, ...]:
  """Names that `get_preset` knows, largest first."""
  return tuple(_PRESETS)


def get_preset(name: str, **changes: Any) -> DiscriminatorConfig:
  """The size called `name`, with fields changed.

  Classes and latent channels are those of the data and of the codec:
  `get_preset("small", num_classes=20, latent_channels=config.latent_channels)`.

  Raises:
    ValueError: there is no such preset or field, or a value does not fit.
  """
  if name not in _PRESETS:
    raise ValueError(
      f"no discriminator size {name!r}; there are {', '.join(_PRESETS)}"
    )
  known = {field.name for field in dataclasses.fields(DiscriminatorConfig)}
  if unknown := changes.keys() - known:
    raise ValueError(
      f"discriminator has no {sorted(unknown)}; it has {sorted(known)}"
    )
  return dataclasses.replace(_PRESETS[name], **changes)


def config_to_dict(config: DiscriminatorConfig) -> dict[str, Any]:
  """See size_json.to_dict."""
  return size_json.to_dict(config)


def config_from_dict(fields: dict[str, Any]) -> DiscriminatorConfig:
  """Inverse of `config_to_dict`; ValueError names unknown or missing keys."""
  return size_json.from_dict(DiscriminatorConfig, fields, "discriminator")
