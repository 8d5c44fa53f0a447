"""A work directory belongs to one run; who may continue it."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from egic_jax.training import checkpoints

# A run continues only with the same values of these; others may change.
_FIXED = (
  "model.preset",
  "model.discriminator_preset",
  "model.normalization",
  "model.conditioning",
  "data.name",
  "data.config",
  "data.sets",
  "data.exclude",
  "data.taxonomy",
  "data.validation_fraction",
  "data.max_side",
  "data.crop_size",
  "data.batch_size",
  "data.scale_range",
  "data.scale_step",
  "data.flip",
  "data.padding",
  "data.enlarge",
  "data.color_policy",
  "data.seed",
  "optimizer.kind",
  "train.stage",
  "train.seed",
  "train.init_from",
  "train.init_discriminator",
  "train.ema_decay",
)

# Sizes as the data and the presets gave them.
_NETWORKS = ("model.codec.", "model.discriminator.")


def check(
  workdir: pathlib.Path,
  config: dict[str, Any],
  *,
  report: Callable[[str], None] = lambda line: None,
) -> None:
  """Makes the work directory, or checks that it holds the same run.

  Args:
    workdir: the directory.
    config: the configuration as JSON-able nested dictionaries, as far as it is
      known.
    report: told which values differ from those of the last run.

  Raises:
    ValueError: there are checkpoints of another model, data set or stage.
    OSError: it cannot be made.
  """
  if (workdir / "config.json").exists() and checkpoints.has_checkpoint(workdir):
    before = dict(flatten(checkpoints.read_config(workdir)))
    now = dict(flatten(config))
    # A key that is newer than the run has its default, which is what the run
    # did; sizes may not be known yet.
    differing = [
      name
      for name in sorted(before.keys() & now.keys())
      if before[name] != now[name]
    ]
    fixed = [
      name for name in differing if name in _FIXED or name.startswith(_NETWORKS)
    ]
    if fixed:
      changes = ", ".join(
        f"{name} was {before[name]!r}, is {now[name]!r}" for name in fixed[:4]
      )
      more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
      raise ValueError(
        f"{workdir} holds another run ({changes}{more}): give these values or"
        " another --workdir"
      )
    for name in differing:
      report(
        f"changed since the last run: {name} {before[name]!r} > {now[name]!r}"
      )
  workdir.mkdir(parents=True, exist_ok=True)


def claim(
  workdir: pathlib.Path,
  config: dict[str, Any],
  *,
  report: Callable[[str], None],
) -> None:
  """`check`, and then writes the configuration, now known as a whole."""
  check(workdir, config, report=report)
  if jax.process_index() == 0:
    checkpoints.write_config(workdir, config)


def flatten(
  tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields ("section.key", value) for every leaf of nested dictionaries."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value
