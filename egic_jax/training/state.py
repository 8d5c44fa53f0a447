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
  """

  step: jax.Array
  params: dict[str, Any]
  opt_state: dict[str, Any]


def create(
  params: dict[str, Any],
  *,
  stage: stages.Stage,
  optimizers: dict[str, Any],
) -> TrainState:
  """The state before the first step; pure, so it can be jitted or evaluated.

  Args:
    params: the parameter tree.
    stage: tells which optimiser holds which parameters.
    optimizers: optimiser name > optax.GradientTransformation.

  Returns:
    TrainState with step 0.
  """
  opt_state = {}
  for update in stage.updates:
    trained, _ = stages.split_params(params, update.groups)
    opt_state[update.optimizer] = optimizers[update.optimizer].init(trained)
  return TrainState(
    step=jnp.zeros((), jnp.int32), params=params, opt_state=opt_state
  )
