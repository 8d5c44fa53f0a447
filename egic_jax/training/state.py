"""What changes from step to step, and nothing else."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from egic_jax.training import stages


class TrainState(flax.struct.PyTreeNode):
  """All that a checkpoint has to hold besides the data iterator.

  Attributes:
    step: () int32, updates made so far.
    params: {"codec": tree, ...}, float32.
    opt_state: optimiser name > optax state of the parameters it trains.
    ema: moving averages, a sub-tree of params; {} without.
    spectral: {"discriminator": tree} of spectral norm's vectors; {} without.
  """

  step: jax.Array
  params: dict[str, Any]
  opt_state: dict[str, Any]
  ema: dict[str, Any] = flax.struct.field(default_factory=dict)
  spectral: dict[str, Any] = flax.struct.field(default_factory=dict)

  @property
  def variables(self) -> dict[str, Any]:
    """What to evaluate: averages in place of what they are averages of."""
    params = stages.overlay(self.params, self.ema) if self.ema else self.params
    return params | {"spectral": self.spectral}

  def to_saved(self) -> dict[str, Any]:
    """Fields by name; without empty ones, so older checkpoints still fit."""
    fields = {
      "step": self.step,
      "params": self.params,
      "opt_state": self.opt_state,
      "ema": self.ema,
      "spectral": self.spectral,
    }
    return {k: v for k, v in fields.items() if k == "step" or v}


def create(
  params: dict[str, Any],
  spectral: dict[str, Any] | None = None,
  *,
  stage: stages.Stage,
  optimizers: dict[str, Any],
  ema_decay: float = 0.0,
) -> TrainState:
  """The state before the first step; pure, so it can be jitted or evaluated.

  Args:
    params: the parameter tree.
    spectral: see `TrainState`.
    stage: tells which optimiser holds which parameters.
    optimizers: optimiser name > optax.GradientTransformation.
    ema_decay: of the moving average; 0 for none.

  Returns:
    TrainState with step 0.
  """
  opt_state = {}
  for update in stage.updates:
    trained, _ = stages.split_params(params, update.groups)
    opt_state[update.optimizer] = optimizers[update.optimizer].init(trained)
  ema = {}
  if ema_decay:
    ema, _ = stages.split_params(params, stage.averaged_groups)
    # A copy: one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, ema)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=opt_state,
    ema=ema,
    spectral=spectral or {},
  )
