"""The training step of a stage, as benchmarks time it and look into it."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from egic_jax.models import presets, swin
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import networks, objectives, optimizer, stages, steps


def kept_program(
  folder: pathlib.Path, stage: str, preset: str, batch: int, **options: bool
) -> pathlib.Path:
  """Where a step that was compiled on another machine is kept.

  Args:
    folder: of all of them.
    stage, preset: their names.
    batch: pictures.
    **options: what else is compiled in, as far as it is true.
  """
  words = [stage, preset, batch, *(k for k in sorted(options) if options[k])]
  return folder / ("_".join(map(str, words)) + ".program")


class TrainingStep(NamedTuple):
  """A step, (state, batch, key) > (state, metrics), and what it is made of."""

  step: Callable
  stage: stages.Stage
  networks: networks.Networks
  optimizers: dict[str, Any]


def make(
  stage_name: str,
  preset: str,
  *,
  dtype: Any,
  kind: str,
  execution: swin.Execution,
) -> TrainingStep:
  """The step of a stage, without LPIPS; rates of 1e-5, clipping at 1.

  Args:
    stage_name: see `egic_jax.training.stages`.
    preset: of codec and discriminator.
    dtype: of activations.
    kind: of optimiser.
    execution: of Swin blocks.
  """
  config = presets.get_preset(preset)
  discriminator = dataclasses.replace(
    discriminator_presets.get_preset(preset),
    latent_channels=config.latent_channels,
  )
  stage = stages.get_stage(stage_name)
  nets = networks.Networks(config, discriminator, dtype, execution)
  optimizers = {
    update.optimizer: optimizer.make_optimizer(
      kind=kind,
      schedule=lambda _: 1e-5,
      b1=0.9,
      b2=0.999,
      clip_norm=1.0,
      kernels=execution.kernels,
    )
    for update in stage.updates
  }
  step = steps.make_train_step(
    stage,
    losses=objectives.make_losses(nets, objectives.LossWeights()),
    optimizers=optimizers,
  )
  return TrainingStep(
    lambda state, batch, key: step(state, batch, key, {}),
    stage,
    nets,
    optimizers,
  )
