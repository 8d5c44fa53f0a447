"""A work directory belongs to one run; who may continue it."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from egic_jax.training import checkpoints

# A run continues only with the same values of these; others may change.
_FIXED = (
  "model.preset",
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
  "data.seed",
  "optimizer.kind",
  "train.stage",
  "train.seed",
  "train.init_from",
)


def claim(
  workdir: pathlib.Path,
  config: dict[str, Any],
  *,
  report: Callable[[str], None],
) -> None:
  """Makes the work directory, or checks that it holds the same run.

  Args:
    workdir: the directory.
    config: the configuration as JSON-able nested dictionaries.
    report: told which values differ from those of the last run.

  Raises:
    ValueError: there are checkpoints of another model, data set or stage.
    OSError: it cannot be made or written.
  """
  if (workdir / "config.json").exists() and checkpoints.has_checkpoint(workdir):
    before = dict(flatten(checkpoints.read_config(workdir)))
    now = dict(flatten(config))
    differing = [
      name
      for name in sorted(before.keys() | now.keys())
      if before.get(name) != now.get(name)
    ]
    fixed = [
      name
      for name in differing
      if name in _FIXED or name.startswith("model.codec.")
    ]
    if fixed:
      changes = ", ".join(
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in fixed[:4]
      )
      more = f" and {len(fixed) - 4} more" if len(fixed) > 4 else ""
      raise ValueError(
        f"{workdir} holds another run ({changes}{more}): give these values or"
        " another --workdir"
      )
    for name in differing:
      report(
        f"changed since the last run: {name} {before.get(name)!r} >"
        f" {now.get(name)!r}"
      )
  workdir.mkdir(parents=True, exist_ok=True)
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
