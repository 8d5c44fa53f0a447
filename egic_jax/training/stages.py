"""A stage of training is data: what is updated, by which loss and optimiser.

A stage needs no trainer of its own: it is an entry here, and names its loss in
`objectives`, its picture in `views` and where it starts from.
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
    loss: name of a function of `objectives.make_losses`.
    portion: which of the stage's portions of a batch it sees.
    averaged: whether a moving average of what it trains can be kept.
  """

  optimizer: str
  groups: tuple[str, ...]
  loss: str
  portion: int = 0
  averaged: bool = False


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one stage does.

  Attributes:
    name: its name in configurations.
    params: top-level groups of the parameter tree that exist in this stage.
    updates: the gradient steps of a training step, in order; each starts from
      what those before it left.
    inputs: the entries of a batch that the losses read.
    starts_from: groups that must come from an earlier stage.
    lpips: "none", "optional" (if weights are configured) or "required".
    view: name of a function of `views.make_views`: what panels show.
    validation: "segmentation" or "": what is measured on the validation split.
  """

  name: str
  params: tuple[str, ...]
  updates: tuple[Update, ...]
  inputs: tuple[str, ...] = ("image",)
  starts_from: tuple[str, ...] = ()
  lpips: str = "none"
  view: str = "reconstruction"
  validation: str = ""

  @property
  def portions(self) -> int:
    """Equal, disjoint parts that a batch is cut into."""
    return 1 + max(update.portion for update in self.updates)

  @property
  def averaged_groups(self) -> tuple[str, ...]:
    """Groups of which a moving average can be kept."""
    return tuple(
      group
      for update in self.updates
      if update.averaged
      for group in update.groups
    )

  @property
  def needs_labels(self) -> bool:
    """Whether only pictures with a label map are of use."""
    return "label" in self.inputs


_LABELLED = ("image", "label", "weight")

_STAGES = {
  stage.name: stage
  for stage in (
    # The discriminator as a plain segmentation network on photographs.
    Stage(
      name="stage0_discriminator",
      params=("discriminator",),
      updates=(
        Update(
          optimizer="discriminator",
          groups=("discriminator",),
          loss="segmentation",
        ),
      ),
      inputs=_LABELLED,
      view="segmentation",
      validation="segmentation",
    ),
    # Rate and mean squared error; everything trains. (The released code
    # updates only g_s here, an artefact of its release.)
    Stage(
      name="stage1_mse",
      params=("codec",),
      updates=(
        Update(
          optimizer="generator",
          groups=("codec",),
          loss="rate_distortion",
          averaged=True,
        ),
      ),
    ),
    # The released warm-up: with LPIPS.
    Stage(
      name="stage1_mse_lpips",
      params=("codec",),
      updates=(
        Update(
          optimizer="generator",
          groups=("codec",),
          loss="rate_distortion_lpips",
          averaged=True,
        ),
      ),
      lpips="required",
    ),
    # g_s against the discriminator; encoder and entropy model stay, so the
    # bitstream does. Each of the two sees pictures that the other does not.
    Stage(
      name="stage2_gan",
      params=("codec", "discriminator"),
      updates=(
        Update(
          optimizer="discriminator",
          groups=("discriminator",),
          loss="adversarial_discriminator",
          portion=0,
        ),
        Update(
          optimizer="generator",
          groups=("codec/synthesis",),
          loss="adversarial_generator",
          portion=1,
          averaged=True,
        ),
      ),
      inputs=_LABELLED,
      starts_from=("codec",),
      lpips="optional",
      view="adversarial",
    ),
    # The second last stage of g_s, towards the least squared error.
    Stage(
      name="stage3_orp",
      params=("codec", "orp"),
      updates=(
        Update(
          optimizer="orp",
          groups=("orp",),
          loss="residual_prediction",
          averaged=True,
        ),
      ),
      starts_from=("codec",),
      view="alpha_sweep",
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


def overlay(params: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
  """*params* with those of the same name in *others* in their place."""
  return traverse_util.unflatten_dict(
    traverse_util.flatten_dict(params) | traverse_util.flatten_dict(others)
  )
