"""What is trained, how long and how: every number of the recipe.

How many updates a machine makes in a minute is not known before, so a stage is
given a share of the time, and its learning rate follows the part of that share
which is over: whatever the speed, each stage ends annealed.
"""

import dataclasses

import jax
import jax.numpy as jnp

from egic_jax.models import presets
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import objectives

RATE_LEVELS = 8
# Label maps are merged by the project's mapping of this name.
TAXONOMY = "photographs"


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """How a training square is cut out of a photograph.

  Attributes:
    zoom: least and greatest scale, drawn evenly in its logarithm.
    native: share of squares that are not scaled at all: nothing is sharper
      than what the camera (or who reduced its picture) left.
    flip: share that is mirrored left to right.
    transpose: share whose rows and columns change places. The classes of a
      label map mind (the sky is above), textures do not.
    colour: share whose saturation, contrast and brightness change.
    strength: the most by which each of the three changes.
  """

  zoom: tuple[float, float] = (0.6, 1.25)
  native: float = 0.4
  flip: float = 0.5
  transpose: float = 0.5
  colour: float = 0.3
  strength: float = 0.2


@dataclasses.dataclass(frozen=True)
class StagePlan:
  """One stage.

  Attributes:
    share: of the planned time (or updates).
    batch_size: squares of an update.
    kind: of optimiser, see `egic_jax.training.optimizer`.
    learning_rate: the largest.
    discriminator_scale: the discriminator's rate over that of g_s.
    hold: part of the stage before the rate falls, evenly, to zero.
    warmup_steps: updates over which it rises; also after a start without
      moments.
    clip_norm: largest global norm of a gradient; 0 for no limit.
    ema_decay: of the moving average of the generator's side; 0 for none.
    augmentation: see there.
  """

  share: float
  batch_size: int
  kind: str
  learning_rate: float
  discriminator_scale: float = 1.0
  hold: float = 0.2
  warmup_steps: int = 100
  clip_norm: float = 1.0
  ema_decay: float = 0.0
  augmentation: Augmentation = Augmentation()


@dataclasses.dataclass(frozen=True)
class Settings:
  """A size and all that is done with it.

  Attributes:
    codec: the codec's size.
    discriminator: the discriminator's, but for classes and latent channels,
      which are those of photographs and codec.
    dtype: of activations and products. Rates are float32 regardless.
    crop_size: side of the squares, pixels.
    stages: name > plan, in the order they are trained.
    weights: of the losses.
    moments: type in which an optimiser's moments are kept in files.
    seed: of parameters, squares and noise.
    dispatch_seconds: how long the device is left alone.
    panel_seconds: between measurements on validation pictures; infinite for
      none.
    save_seconds: between saves.
  """

  codec: presets.CodecConfig
  discriminator: discriminator_presets.DiscriminatorConfig
  dtype: jnp.dtype
  crop_size: int
  stages: dict[str, StagePlan]
  weights: objectives.LossWeights
  moments: str
  seed: int = 0
  dispatch_seconds: float = 2.0
  panel_seconds: float = 45.0
  save_seconds: float = 120.0


_UPRIGHT = Augmentation(transpose=0.0)
# LPIPS has no weights that could be carried. In so short a time the discriminator
# has less to say.
_WEIGHTS = objectives.LossWeights(lpips=0.0, adversarial=0.3)


def _codec(name: str) -> presets.CodecConfig:
  return dataclasses.replace(presets.get_preset(name), rate_levels=RATE_LEVELS)


SETTINGS = {
  # For one accelerator of a data centre. Batch sizes are a guess until `bench`
  # was run there.
  "small": Settings(
    codec=_codec("small"),
    discriminator=discriminator_presets.get_preset("small"),
    dtype=jnp.bfloat16,
    crop_size=256,
    stages={
      "stage1_mse": StagePlan(
        share=0.66, batch_size=16, kind="muon", learning_rate=1e-3
      ),
      "stage0_discriminator": StagePlan(
        share=0.06,
        batch_size=32,
        kind="adam",
        learning_rate=1e-3,
        augmentation=_UPRIGHT,
      ),
      "stage2_gan": StagePlan(
        share=0.2,
        batch_size=32,
        kind="adam",
        learning_rate=2e-4,
        discriminator_scale=2.0,
        ema_decay=0.999,
        augmentation=_UPRIGHT,
      ),
      "stage3_orp": StagePlan(
        share=0.08, batch_size=32, kind="adam", learning_rate=3e-4
      ),
    },
    weights=_WEIGHTS,
    # float32 would take 29 MiB more, and files are few and small.
    moments="bfloat16",
    # What measures would have to be compiled for every stage.
    panel_seconds=float("inf"),
  ),
  # For two processor cores: a rehearsal, or an evening's model.
  "tiny": Settings(
    codec=_codec("tiny"),
    discriminator=discriminator_presets.get_preset("tiny"),
    dtype=jnp.float32,
    crop_size=128,
    stages={
      "stage0_discriminator": StagePlan(
        share=0.1,
        batch_size=8,
        kind="adam",
        learning_rate=1e-3,
        warmup_steps=20,
        augmentation=_UPRIGHT,
      ),
      "stage1_mse": StagePlan(
        share=0.6,
        batch_size=8,
        kind="muon",
        learning_rate=1e-3,
        warmup_steps=20,
      ),
      "stage2_gan": StagePlan(
        share=0.2,
        batch_size=8,
        kind="adam",
        learning_rate=2e-4,
        ema_decay=0.99,
        warmup_steps=20,
        augmentation=_UPRIGHT,
      ),
      "stage3_orp": StagePlan(
        share=0.1,
        batch_size=8,
        kind="adam",
        learning_rate=3e-4,
        warmup_steps=20,
      ),
    },
    weights=_WEIGHTS,
    moments="float32",
  ),
}

# For tests and for rehearsing the commands: learns next to nothing.
SETTINGS["micro"] = dataclasses.replace(
  SETTINGS["tiny"],
  codec=presets.CodecConfig(
    analysis_widths=(8, 8, 8, 8),
    analysis_depths=(1, 1, 1, 1),
    analysis_window=2,
    hyper_width=8,
    hyper_depths=(1, 1),
    hyper_window=1,
    num_slices=2,
    max_support=2,
    head_width=8,
    mlp_ratio=1,
    rate_levels=RATE_LEVELS,
  ),
  discriminator=discriminator_presets.DiscriminatorConfig(
    encoder_widths=(4, 8), decoder_widths=(8, 6), embedding_width=6
  ),
  crop_size=64,
)


def get_settings(size: str) -> Settings:
  """The settings called `size`; ValueError if there are none."""
  if size not in SETTINGS:
    raise ValueError(
      f"--size={size}: no such size; there are {', '.join(SETTINGS)}"
    )
  return SETTINGS[size]


def replace_dtype(settings: Settings, name: str) -> Settings:
  """Settings with another type of activations: "float32" or "bfloat16"."""
  if name not in ("float32", "bfloat16"):
    raise ValueError(f"--dtype={name}: must be float32 or bfloat16")
  return dataclasses.replace(settings, dtype=jnp.dtype(name))


@dataclasses.dataclass(frozen=True)
class Length:
  """How long all stages together are.

  Attributes:
    total: seconds, or updates.
    counts_updates: which of the two.
  """

  total: float
  counts_updates: bool = False

  def of_stage(self, settings: Settings, name: str, gone: float = 0.0) -> float:
    """What a stage gets of what is left for it and those after it.

    Args:
      settings: shares of all stages.
      name: of the stage.
      gone: what was spent before its first update.

    Returns:
      Seconds, or updates, whole ones and at least 1. Half of its share at
      least: compiling may take longer than a short stage.
    """
    names = list(settings.stages)
    shares = [stage.share for stage in settings.stages.values()]
    number = names.index(name)
    least = 0.5 * self.total * shares[number] / sum(shares)
    left = (self.total - gone) * shares[number] / sum(shares[number:])
    planned = max(left, least)
    return max(round(planned), 1) if self.counts_updates else planned


def rate_factor(progress: jax.Array, hold: float) -> jax.Array:
  """The learning rate at a part of a stage, over the largest.

  Args:
    progress: in [0, 1]; beyond it counts as 1.
    hold: part during which it is 1; from there it falls evenly to 0.

  Returns:
    Factor in [0, 1], of progress's shape.
  """
  return jnp.clip((1.0 - progress) / (1.0 - hold), 0.0, 1.0)
