"""The state of a training as the arrays of a save, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import programs
import saved

from egic_jax.training import networks as networks_lib
from egic_jax.training import state as state_lib


def to_arrays(
  state: state_lib.TrainState | None, kept: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What `saved.save` calls params and others.

  Args:
    state: of the present stage; None between two stages.
    kept: groups of parameters that earlier stages trained.
  """
  now, others = {}, {}
  if state is not None:
    state = jax.device_get(state)
    now = state.params
    others = {
      "opt_state": state.opt_state,
      "ema": state.ema,
      "spectral": state.spectral,
    }
  kept = {name: group for name, group in kept.items() if name not in now}
  return {"now": now, "kept": kept}, others


def from_arrays(
  params: Mapping[str, np.ndarray],
  others: Mapping[str, np.ndarray] | None,
  *,
  networks: networks_lib.Networks,
  program: programs.StageProgram | None,
  update: int,
  seed: int,
) -> tuple[state_lib.TrainState | None, dict[str, Any]]:
  """State, on the device, and what is kept, of a save's arrays by name.

  Args:
    params: of the save.
    others: of the save; None for moments and averages that start anew.
    networks: of all stages.
    program: of the present stage; None after the last.
    update: the next one's number.
    seed: of what starts anew.

  Raises:
    ValueError: the save is of other networks.
  """
  groups = {name.split("/")[1] for name in params if name.startswith("kept")}
  shapes = {"now": {}, "kept": networks.param_shapes(tuple(groups))}
  if any(name.startswith("now") for name in params):
    shapes["now"] = program.state_shapes().params
  trees = saved.fill(shapes, params)
  if not trees["now"]:
    return None, trees["kept"]
  if others is None:
    state = program.create(trees["now"], seed)
  else:
    whole = program.state_shapes()
    names = ("opt_state", "ema", "spectral")
    found = saved.fill({name: getattr(whole, name) for name in names}, others)
    state = whole.replace(params=trees["now"], **found)
  state = state.replace(step=jnp.asarray(update, jnp.int32))
  return jax.device_put(state), trees["kept"]
