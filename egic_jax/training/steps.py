"""The training step as a pure function: (state, batch, key) > (state, metrics).

Nothing here knows of devices, files or time; the loop jits what this builds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from egic_jax.training import objectives, optimizer, stages
from egic_jax.training import state as state_lib

Step = Callable[
  [
    state_lib.TrainState,
    objectives.Batch,
    jax.Array,
    dict[str, Any],
  ],
  tuple[state_lib.TrainState, objectives.Metrics],
]


def make_train_step(
  stage: stages.Stage,
  *,
  losses: dict[str, objectives.Loss],
  optimizers: dict[str, optax.GradientTransformation],
  accumulate: int = 1,
  ema_decay: float = 0.0,
) -> Step:
  """Builds the training step of a stage.

  Args:
    stage: what to update.
    losses: loss name > function (variables, batch, key) > (scalar, (metrics,
      spectral)), for each name in the stage's updates.
    optimizers: optimiser name > transformation, likewise.
    accumulate: parts of a batch whose gradients are computed one after the
      other and averaged, to save memory.
    ema_decay: of the moving average of the generator; 0 for none.

  Returns:
    A pure function (state, batch, key, constants) > (state, metrics). *key* is
    the run's key: each step folds its number in, so a resumed run draws the
    same noise. *constants* are variables that no one trains: {} or {"lpips":
    weights}. metrics are scalars; "grad_norm" is the global norm before
    clipping, under the optimiser's name when there are several.
  """

  def train_step(state, batch, key, constants):
    key = jax.random.fold_in(key, state.step)
    params, opt_state, metrics = state.params, dict(state.opt_state), {}
    spectral = state.spectral
    for i, update in enumerate(stage.updates):
      trained, frozen = stages.split_params(params, update.groups)
      grads, (scalars, spectral) = _gradients(
        _objective(losses[update.loss], frozen, constants),
        trained,
        spectral,
        _part(batch, update.portion, stage.portions),
        jax.random.fold_in(key, i),
        accumulate,
      )
      trained, opt_state[update.optimizer], norm = optimizer.apply(
        optimizers[update.optimizer],
        grads,
        opt_state[update.optimizer],
        trained,
      )
      params = stages.join_params(trained, frozen)
      name = f"{update.optimizer}_" if len(stage.updates) > 1 else ""
      metrics |= scalars | {f"{name}grad_norm": norm}
    ema = state.ema
    if ema_decay:
      averaged, _ = stages.split_params(params, stage.averaged_groups)
      ema = jax.tree.map(
        lambda mean, new: mean + (1.0 - ema_decay) * (new - mean), ema, averaged
      )
    return (
      state.replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema,
        spectral=spectral,
      ),
      metrics,
    )

  return train_step


def _objective(loss, frozen, constants):
  def objective(trained, spectral, batch, key):
    variables = stages.join_params(trained, frozen)
    return loss(variables | constants | {"spectral": spectral}, batch, key)

  return objective


def _gradients(objective, trained, spectral, batch, key, accumulate):
  """(gradients, (scalars, spectral)), means over *accumulate* parts."""
  grads_of = jax.grad(objective, has_aux=True)
  if accumulate == 1:
    return grads_of(trained, spectral, batch, key)

  def add_part(carry, part):
    total, spectral = carry
    batch, number = part
    grads, (scalars, spectral) = grads_of(
      trained, spectral, batch, jax.random.fold_in(key, number)
    )
    return (jax.tree.map(jnp.add, total, grads), spectral), scalars

  parts = {
    name: jnp.moveaxis(_deal(array, accumulate), 1, 0)
    for name, array in batch.items()
  }
  (total, spectral), scalars = jax.lax.scan(
    add_part,
    (jax.tree.map(jnp.zeros_like, trained), spectral),
    (parts, jnp.arange(accumulate)),
  )
  return (
    jax.tree.map(lambda x: x / accumulate, total),
    (jax.tree.map(lambda x: jnp.mean(x, axis=0), scalars), spectral),
  )


def _part(batch, index, count):
  """One of *count* disjoint parts of a batch."""
  if count == 1:
    return batch
  return {name: _deal(x, count)[:, index] for name, x in batch.items()}


def _deal(array: jax.Array, count: int) -> jax.Array:
  """(B, ...) > (B / count, count, ...).

  Dealt like cards: halves of the first axis would be on different devices, but
  every device has some of each part.
  """
  return array.reshape(array.shape[0] // count, count, *array.shape[1:])
