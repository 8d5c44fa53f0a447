"""A work directory: what is where, and who may continue the run in it."""

import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from egic_jax import atomic_files
from egic_jax.training import errors, processes

CONFIG = "config.json"
CHECKPOINTS = "checkpoints"

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

# These may differ between the processes of one run: they are of the machine.
_OF_THE_MACHINE = (
  "data.data_dir",
  "data.folder",
  "data.num_threads",
  "data.num_workers",
  "data.prefetch",
  "data.cache_decoded",
  "loss.lpips_files",
)

# Seconds for what one machine wrote to be seen by another.
_STORAGE_DELAY = 20

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
  if (workdir / CONFIG).exists() and has_checkpoint(workdir):
    before = dict(flatten(read_config(workdir)))
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
  """`check`, and then writes the configuration, now known as a whole.

  Raises:
    ValueError, OSError: as `check`.
    errors.TrainingError: the processes have different configurations, or work
      directories that are not one and the same.
  """

  def check_and_write():
    check(workdir, config, report=report)
    if jax.process_index() == 0:
      write_config(workdir, config)

  processes.first_then_others(check_and_write)
  if jax.process_count() == 1:
    return
  processes.check_same("a configuration", _for_all(config))
  if not processes.all_agree(_is_shared(workdir, config)):
    raise errors.TrainingError(
      f"{workdir}: not all processes see what process 0 writes there; give a"
      " --workdir on storage that all machines share"
    )


def _for_all(config: dict[str, Any]) -> str:
  values = dict(flatten(config))
  return json.dumps(
    {k: v for k, v in values.items() if k not in _OF_THE_MACHINE},
    sort_keys=True,
  )


def _is_shared(workdir: pathlib.Path, config: dict[str, Any]) -> bool:
  end = time.monotonic() + _STORAGE_DELAY
  while time.monotonic() < end:
    try:
      if _for_all(read_config(workdir)) == _for_all(config):
        return True
    except (FileNotFoundError, ValueError):
      pass
    time.sleep(0.2)
  return False


def flatten(
  tree: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields ("section.key", value) for every leaf of nested dictionaries."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flatten(value, f"{prefix}{name}.")
    else:
      yield prefix + name, value


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Whether there is any, good or not."""
  return bool(steps_on_disk(workdir))


def steps_on_disk(workdir: str | pathlib.Path) -> list[int]:
  """Steps of the checkpoints that are complete, the newest first."""
  directory = pathlib.Path(workdir) / CHECKPOINTS
  # A save in progress has a suffix to its name, so digits are complete ones.
  if not directory.is_dir():
    return []
  return sorted(
    (int(p.name) for p in directory.iterdir() if p.name.isdigit()),
    reverse=True,
  )


def read_config(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The training configuration of a work directory.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not JSON.
  """
  path = pathlib.Path(workdir) / CONFIG
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir}: not a work directory of egic train ({CONFIG} is missing)"
    )
  try:
    config = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path}: not JSON ({error})") from error
  if not isinstance(config, dict):
    raise ValueError(f"{path}: not a configuration")
  return config


def write_config(workdir: str | pathlib.Path, config: dict[str, Any]) -> None:
  """Writes config.json, whole or not at all."""
  text = json.dumps(config, indent=2, sort_keys=True) + "\n"
  atomic_files.write_bytes(pathlib.Path(workdir) / CONFIG, text.encode())
