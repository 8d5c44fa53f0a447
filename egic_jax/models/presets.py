"""Sizes of the codec: `full` is the paper's, the others are ours.

A size is data. Nothing in the project tests for a preset's name.
"""

import dataclasses
from typing import Any

from egic_jax.models import size_json


@dataclasses.dataclass(frozen=True)
class CodecConfig:
  """Everything that decides the shape of the codec's parameters.

  Attributes:
    analysis_widths: channels of the stages of g_a, first to last; g_s mirrors
      them. The last one is the number of channels of y.
    analysis_depths: Swin blocks of these stages.
    analysis_window: side of their attention windows, in tokens.
    hyper_width: channels of h_a, h_s and z.
    hyper_depths: Swin blocks of the two stages of h_a; h_s mirrors them.
    hyper_window: side of their attention windows, in tokens.
    num_slices: slices of the channel-autoregressive model; divides the
      channels of y.
    max_support: how many decoded slices a later slice sees.
    head_width: channels of an attention head; divides every width.
    mlp_ratio: hidden width of a block's MLP over the block's width.
    rate_levels: levels of quality that one model is trained for
      (`rate_gains`), at least 2; 0 for one rate, as in the paper.
  """

  analysis_widths: tuple[int, ...] = (128, 192, 256, 320)
  analysis_depths: tuple[int, ...] = (2, 2, 6, 2)
  analysis_window: int = 8
  hyper_width: int = 192
  hyper_depths: tuple[int, int] = (5, 1)
  hyper_window: int = 4
  num_slices: int = 10
  max_support: int = 10
  head_width: int = 32
  mlp_ratio: int = 4
  rate_levels: int = 0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.name == "rate_levels":
        if type(value) is not int or value < 0 or value == 1:
          raise ValueError(f"rate_levels is {value!r}; pass 0, or at least 2")
        continue
      values = value if isinstance(value, tuple) else (value,)
      if not values or not all(type(v) is int and v > 0 for v in values):
        raise ValueError(
          f"{field.name} must be positive whole numbers, got {value!r}"
        )
    if len(self.analysis_widths) != 4 or len(self.analysis_depths) != 4:
      raise ValueError("analysis_widths and analysis_depths need 4 entries")
    if len(self.hyper_depths) != 2:
      raise ValueError("hyper_depths needs 2 entries")
    if self.latent_channels % self.num_slices:
      raise ValueError(
        f"num_slices {self.num_slices} must divide the latent's"
        f" {self.latent_channels} channels"
      )
    for width in (*self.analysis_widths, self.hyper_width):
      if width % self.head_width:
        raise ValueError(
          f"head_width {self.head_width} must divide every width, got {width}"
        )

  @property
  def latent_channels(self) -> int:
    """Channels of y."""
    return self.analysis_widths[-1]

  @property
  def slice_channels(self) -> int:
    """Channels of one slice of y."""
    return self.latent_channels // self.num_slices

  @property
  def latent_stride(self) -> int:
    """Pixels per element of y along a side."""
    return 16

  @property
  def hyper_stride(self) -> int:
    """Pixels per element of z along a side; images are padded to it."""
    return 64


_PRESETS = {
  # Exactly the official widths: 32,550,864 parameters and 5,376 of the prior.
  "full": CodecConfig(),
  # Half the widths, about a quarter of the compute: a laptop's size.
  "small": CodecConfig(
    analysis_widths=(64, 96, 128, 160),
    hyper_width=96,
    num_slices=5,
    max_support=5,
  ),
  # Compiles in seconds, trains on a CPU in minutes.
  "tiny": CodecConfig(
    analysis_widths=(32, 48, 64, 96),
    analysis_depths=(2, 1, 2, 1),
    hyper_width=64,
    hyper_depths=(1, 1),
    num_slices=3,
    max_support=3,
    head_width=16,
    mlp_ratio=2,
  ),
}


def preset_names() -> tuple[str, ...]:
  """Names that `get_preset` knows, largest first."""
  return tuple(_PRESETS)


def get_preset(name: str) -> CodecConfig:
  """The size called `name`; ValueError if there is none."""
  if name not in _PRESETS:
    raise ValueError(f"no model size {name!r}; there are {', '.join(_PRESETS)}")
  return _PRESETS[name]


def config_to_dict(config: CodecConfig) -> dict[str, Any]:
  """See size_json.to_dict; `rate_levels` only where there are any.

  So that models which know one rate keep their fingerprints.
  """
  fields = size_json.to_dict(config)
  if not config.rate_levels:
    del fields["rate_levels"]
  return fields


def config_from_dict(fields: dict[str, Any]) -> CodecConfig:
  """Inverse of `config_to_dict`; ValueError names unknown or missing keys."""
  return size_json.from_dict(CodecConfig, {"rate_levels": 0, **fields}, "model")
