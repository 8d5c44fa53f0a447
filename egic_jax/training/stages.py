"""A stage of training is data: what is updated, by which loss and optimiser.

A later stage adds entries here and its loss to `steps`; it needs no trainer of
its own.
"""

import dataclasses
from typing import Any

from flax import traverse_util


@dataclasses.dataclass(frozen=True)
class Update:
  """One gradient step within a training step.

  Attributes:
    optimizer: name of the optimiser, unique within the stage.
    groups: prefixes of parameter names, such as "codec" or "codec/synthesis",
      that it trains. All other parameters are constants to it.
    loss: name of a function in `steps.LOSSES`.
  """

  optimizer: str
  groups: tuple[str, ...]
  loss: str


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage does.

  Attributes:
    name: its name in configurations.
    params: top-level groups of the parameter tree that exist in this stage.
    updates: the gradient steps of a training step, in order.
    inputs: the entries of a batch that the losses read.
  """

  name: str
  params: tuple[str, ...]
  updates: tuple[Update, ...]
  inputs: tuple[str, ...] = ("image",)


_STAGES = {
  stage.name: stage
  for stage in (
    # Rate and mean squared error; everything trains. (The released code
    # updates only g_s here, an artefact of its release.)
    Stage(
      name="stage1_mse",
      params=("codec",),
      updates=(
        Update(
          optimizer="generator", groups=("codec",), loss="rate_distortion"
        ),
      ),
    ),
  )
}


def stage_names() -> tuple[str, ...]:
  """Names that `get_stage` knows."""
  return tuple(_STAGES)


def get_stage(name: str) -> Stage:
  """The stage called `name`; ValueError if there is none."""
  if name not in _STAGES:
    raise ValueError(
      f"train.stage={name}: no such stage; there are {', '.join(_STAGES)}"
    )
  return _STAGES[name]


def split_params(
  params: dict[str, Any], groups: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a parameter tree in those that *groups* name and the rest.

  Frozen parameters stay out of gradients, optimiser and update altogether, so
  not a bit of them can change.

  Args:
    params: nested dictionaries.
    groups: prefixes of names, such as "codec" or "codec/synthesis".

  Returns:
    (trained, frozen), nested dictionaries without empty branches.

  Raises:
    ValueError: a group names no parameter.
  """
  prefixes = [tuple(group.split("/")) for group in groups]
  unused = set(prefixes)
  trained, frozen = {}, {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    matching = [p for p in prefixes if path[: len(p)] == p]
    unused.difference_update(matching)
    (trained if matching else frozen)[path] = leaf
  if unused:
    names = ", ".join(sorted("/".join(p) for p in unused))
    raise ValueError(
      f"groups: {names} names no parameter; the tree has "
      f"{', '.join(sorted(params))}"
    )
  return (
    traverse_util.unflatten_dict(trained),
    traverse_util.unflatten_dict(frozen),
  )


def join_params(trained: dict[str, Any], frozen: dict[str, Any]) -> dict:
  """Inverse of `split_params`."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(trained) | traverse_util.flatten_dict(frozen)
  )
