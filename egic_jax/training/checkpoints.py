"""Checkpoints: written whole, read back verified.

Orbax stores the arrays. It does not notice a flipped bit in them, so each
checkpoint also has a manifest with a SHA-256 of every array, of the data
iterator's position and the identity of the data set; what fails to match is
not used, and the next older checkpoint is.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from egic_jax import atomic_files
from egic_jax.models import codec, orp, presets
from egic_jax.models.discriminators import oasis_c
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import errors, stages
from egic_jax.training import state as state_lib

_CHECKPOINTS = "checkpoints"
_CORRUPT = "corrupt_checkpoints"
_CONFIG = "config.json"

# What the system says, in the midst of long messages of Orbax.
_SYSTEM_REASONS = tuple(
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
)

Report = Callable[[str], None]


class Checkpoints:
  """The checkpoints of a work directory, for the run that writes them."""

  def __init__(
    self,
    workdir: pathlib.Path,
    *,
    keep: int,
    dataset_identity: str,
    report: Report,
  ):
    """Opens the directory, and removes what an interrupted save left.

    Args:
      workdir: the work directory.
      keep: how many of the newest checkpoints to keep, at least 1.
      dataset_identity: what the iterator walks through; a checkpoint of other
        data is refused.
      report: called with one line for the user when something is odd.

    Raises:
      ValueError: keep is less than 1.
      CheckpointError: the directory cannot be made or written.
    """
    if keep < 1:
      raise ValueError(f"train.keep={keep}: must be at least 1")
    # Orbax refuses relative paths, and only when it saves.
    self._workdir = pathlib.Path(workdir).absolute()
    self._identity = dataset_identity
    self._report = report
    with _storage_errors("open", self._workdir):
      # Orbax would find out only when it writes the first one.
      directory = self._workdir / _CHECKPOINTS
      directory.mkdir(parents=True, exist_ok=True)
      if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} is not writable")
      self._manager = ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
          preservation_policy=checkpoint_managers.LatestN(keep),
          cleanup_tmp_directories=True,
        ),
      )

  def save(self, state: state_lib.TrainState, iterator: Iterator[Any]) -> None:
    """Writes state and data position; returns once the arrays are copied.

    The files follow in the background: `wait` or the next save reports what
    went wrong with them.

    Args:
      state: the state; may be donated afterwards.
      iterator: the grain iterator, right after the batch of the state's step.

    Raises:
      CheckpointError: parameters are not finite, or writing fails.
    """
    import grain

    step = int(state.step)
    saved = state.to_saved()
    arrays = _named_arrays(saved)
    _check_finite(arrays, step)
    manifest = {
      "step": step,
      "dataset_identity": self._identity,
      "processes": jax.process_count(),
      "iterator": _iterator_digest(iterator),
      "sha256": {name: _digest(array) for name, array in arrays.items()},
    }
    with _storage_errors("write", self._workdir):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(saved),
          data=grain.checkpoint.CheckpointSave(iterator),
          manifest=ocp.args.JsonSave(manifest),
        ),
      )

  def wait(self) -> None:
    """Waits until all is written; CheckpointError if that failed."""
    with _storage_errors("write", self._workdir):
      self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """The newest step on disk, unverified; None without checkpoints."""
    return self._manager.latest_step()

  def reached_preemption(self, step: int) -> bool:
    """Whether the scheduler takes the machines away; the same everywhere."""
    return self._manager.reached_preemption(step)

  def restore_newest_good(
    self, abstract_state: state_lib.TrainState, iterator: Iterator[Any]
  ) -> state_lib.TrainState | None:
    """Reads the newest checkpoint that can be read and matches its manifest.

    Newer ones that do not are moved to WORKDIR/corrupt_checkpoints, so that
    the run can write these steps again.

    Args:
      abstract_state: shapes, types and shardings of the state; the number of
        devices need not be that of the run that saved.
      iterator: a grain iterator, set to the checkpoint's position in place.

    Returns:
      The state, or None if there is no checkpoint at all.

    Raises:
      CheckpointError: there are checkpoints, but no good one.
      ValueError: the checkpoint belongs to other data or another number of
        processes.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    bad = []
    for step in steps:
      try:
        state = self._restore(step, abstract_state, iterator)
      except _Mismatch as error:
        raise ValueError(str(error)) from None
      except Exception as error:  # Orbax raises all sorts on broken files.
        problem = _one_line(error)
        state = None
      if _all_processes_agree(state is not None):
        self._set_aside(bad)
        return state
      if state is not None:
        problem = "another process could not read it"
      self._report(f"checkpoint {step} is damaged and not used: {problem}")
      bad.append(step)
    if not steps:
      return None
    raise errors.CheckpointError(
      f"none of the {len(steps)} checkpoints in {self._workdir / _CHECKPOINTS}"
      f" can be read (newest: {problem}); remove that directory to start anew"
    )

  def close(self) -> None:
    """Waits for writes and releases Orbax's threads."""
    with _storage_errors("write", self._workdir):
      self._manager.close()

  def _restore(self, step, abstract_state, iterator):
    import grain

    manifest = self._manager.restore(
      step, args=ocp.args.Composite(manifest=ocp.args.JsonRestore())
    ).manifest
    _check_manifest(manifest, step)
    self._check_identity(manifest, step)
    saved = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract_state.to_saved()),
        data=grain.checkpoint.CheckpointRestore(iterator),
      ),
    ).state
    _check_arrays(_named_arrays(saved), manifest)
    state = abstract_state.replace(**saved)
    if int(state.step) != step:
      raise ValueError(f"it says it is step {int(state.step)}")
    if manifest["iterator"] != _iterator_digest(iterator):
      raise ValueError("the data iterator's position differs from its SHA-256")
    return state

  def _check_identity(self, manifest, step):
    processes = manifest["processes"]
    if processes != jax.process_count():
      raise _Mismatch(
        f"checkpoint {step} was written by {processes} processes and this run"
        f" has {jax.process_count()}: the data position is kept for each"
        " process; continue with as many"
      )
    saved = manifest["dataset_identity"]
    if saved != self._identity:
      raise _Mismatch(
        f"checkpoint {step} was trained on {saved} and this run's data are"
        f" {self._identity}: restore the data set, or use another --workdir"
      )

  def _set_aside(self, steps):
    if not steps:
      return
    directory = self._workdir / _CORRUPT
    if jax.process_index() == 0:
      with _storage_errors("write", self._workdir):
        directory.mkdir(exist_ok=True)
        for step in steps:
          target = directory / str(step)
          number = 1
          while target.exists():
            number += 1
            target = directory / f"{step}-{number}"
          (self._workdir / _CHECKPOINTS / str(step)).rename(target)
    _all_processes_agree(True)
    self._manager.reload()
    self._report(f"damaged checkpoints were moved to {directory}")


def load_parameters(
  workdir: str | pathlib.Path, *, report: Report = logging.warning
) -> tuple[presets.CodecConfig, dict[str, Any], int]:
  """Reads the codec of a work directory's newest good checkpoint.

  Of parameters with a moving average, the average. Nothing of the data
  libraries is imported.

  Args:
    workdir: a directory that training wrote.
    report: called with one line for each damaged checkpoint passed over.

  Returns:
    The codec's size, the parameters as numpy arrays {"codec": tree, and "orp"
    if there is one}, and the number of updates that led to them.

  Raises:
    FileNotFoundError: not a work directory, or no checkpoint in it yet.
    ValueError: it has no codec, or its configuration or all of its checkpoints
      are damaged.
  """
  workdir = pathlib.Path(workdir).absolute()
  config = read_config(workdir)
  codec_config = _read_size(workdir, config, "codec", presets.config_from_dict)
  shapes = codec.param_shapes(codec_config)
  shapes = {"codec": shapes, "orp": orp.init_from_synthesis(shapes)}
  params, step = _load_groups(
    workdir, shapes, required=("codec",), report=report
  )
  return codec_config, params, step


def load_discriminator(
  workdir: str | pathlib.Path, *, report: Report = logging.warning
) -> tuple[discriminator_presets.DiscriminatorConfig, dict[str, Any], int]:
  """Reads the discriminator of a work directory, like `load_parameters`.

  Returns:
    Its size, its parameters as numpy arrays, the number of updates.

  Raises:
    FileNotFoundError, ValueError: as `load_parameters`.
  """
  workdir = pathlib.Path(workdir).absolute()
  config = read_config(workdir)
  size = _read_size(
    workdir, config, "discriminator", discriminator_presets.config_from_dict
  )
  params, step = _load_groups(
    workdir,
    {"discriminator": oasis_c.param_shapes(size)},
    required=("discriminator",),
    report=report,
  )
  return size, params["discriminator"], step


def _read_size(workdir, config, name, from_dict):
  """The size of a network from config.json; a line if it has none."""
  try:
    model = config["model"]
    others = {"codec", "discriminator"} & model.keys() - {name}
    if name not in model and others:
      raise ValueError(
        f"{workdir}: a run of {config['train']['stage']}, which has no {name};"
        " give the work directory of a stage that has"
      )
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{workdir / _CONFIG}: does not describe a model ({error!r})"
    ) from error
  try:
    return from_dict(model[name])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{workdir / _CONFIG}: does not describe a model ({error!r})"
    ) from error


def _load_groups(workdir, shapes, *, required, report):
  directory = workdir / _CHECKPOINTS
  steps = _steps_in(directory)
  if not steps:
    raise FileNotFoundError(
      f"{workdir}: no checkpoint yet; let the training reach"
      " train.checkpoint_every steps"
    )
  for step in steps:
    try:
      params = _read_params(directory / str(step), step, tuple(shapes))
      groups = {*params, *required}
      _check_shapes(params, {group: shapes[group] for group in groups})
      return params, step
    except Exception as error:  # Orbax raises all sorts on broken files.
      problem = _one_line(error)
      report(f"checkpoint {step} is damaged and not used: {problem}")
  raise ValueError(
    f"{directory}: none of the {len(steps)} checkpoints can be read"
    f" (oldest: {problem})"
  )


def has_checkpoint(workdir: str | pathlib.Path) -> bool:
  """Whether there is any, good or not."""
  return bool(_steps_in(pathlib.Path(workdir) / _CHECKPOINTS))


def read_config(workdir: str | pathlib.Path) -> dict[str, Any]:
  """The training configuration of a work directory.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is not JSON.
  """
  path = pathlib.Path(workdir) / _CONFIG
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir}: not a work directory of egic train ({_CONFIG} is missing)"
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
  atomic_files.write_bytes(pathlib.Path(workdir) / _CONFIG, text.encode())


class _Mismatch(Exception):
  """A good checkpoint, but of another run."""


def _read_params(
  directory: pathlib.Path, step: int, groups: tuple[str, ...]
) -> dict[str, Any]:
  """Those of these groups that there are, averages where there are any."""
  with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
    manifest = reader.restore(directory / "manifest")
  _check_manifest(manifest, step)
  # The bare handler: it reads the item's directory without the manager's files.
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(directory / "state").tree
  wanted = {
    part: {name: tree[part][name] for name in groups if name in tree[part]}
    for part in ("params", "ema")
    if part in tree
  }
  target = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    {part: named for part, named in wanted.items() if named},
  )
  restored = handler.restore(
    directory / "state",
    args=ocp.args.PyTreeRestore(
      target,
      restore_args=jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target
      ),
      partial_restore=True,
    ),
  )
  handler.close()
  prefixes = tuple(
    f"{part}/{name}/" for part in ("params", "ema") for name in groups
  )
  _check_arrays(_named_arrays(restored), manifest, prefixes)
  return stages.overlay(restored["params"], restored.get("ema", {}))


def _check_shapes(params, shapes):
  expected = _named_arrays(shapes, fetch=False)
  found = _named_arrays(params, fetch=False)
  names = sorted(
    name
    for name in expected.keys() | found.keys()
    if getattr(expected.get(name), "shape", None)
    != getattr(found.get(name), "shape", None)
  )
  if names:
    raise ValueError(
      f"{len(names)} parameters do not fit {_CONFIG}, the first is {names[0]}"
    )


def _steps_in(directory: pathlib.Path) -> list[int]:
  # A save in progress has a suffix to its name, so digits are complete ones.
  if not directory.is_dir():
    return []
  return sorted(
    (int(p.name) for p in directory.iterdir() if p.name.isdigit()),
    reverse=True,
  )


def _named_arrays(tree: Any, *, fetch: bool = True) -> dict[str, Any]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      _to_host(leaf) if fetch else leaf
    )
    for path, leaf in leaves
  }


def _to_host(array: Any) -> np.ndarray:
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    if array.is_fully_replicated:
      return np.asarray(array.addressable_data(0))
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def _digest(array: np.ndarray) -> str:
  digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
  digest.update(np.ascontiguousarray(array).data)
  return digest.hexdigest()


def _iterator_digest(iterator: Any) -> str:
  # The first process's position stands for all: they walk in step.
  state = iterator.get_state()
  text = state if isinstance(state, bytes) else json.dumps(state).encode()
  return hashlib.sha256(text).hexdigest()


def _check_manifest(manifest: Any, step: int) -> None:
  keys = {"step", "dataset_identity", "processes", "iterator", "sha256"}
  if not isinstance(manifest, dict) or not keys <= manifest.keys():
    raise ValueError("its manifest is not one")
  if manifest["step"] != step:
    raise ValueError(f"its manifest is that of step {manifest['step']}")


def _check_arrays(
  arrays: dict[str, np.ndarray],
  manifest: dict[str, Any],
  prefixes: tuple[str, ...] = ("",),
) -> None:
  expected = {
    name: digest
    for name, digest in manifest["sha256"].items()
    if name.startswith(prefixes)
  }
  if missing := sorted(expected.keys() ^ arrays.keys()):
    raise ValueError(f"its arrays are not those of its manifest: {missing[0]}")
  for name, array in arrays.items():
    if _digest(array) != expected[name]:
      raise ValueError(f"{name} differs from its SHA-256")


def _check_finite(arrays: dict[str, np.ndarray], step: int) -> None:
  for name, array in arrays.items():
    if not np.all(np.isfinite(array)):
      raise errors.CheckpointError(
        f"step {step}: {name} is not finite, so it was not saved; the last"
        " good checkpoint is kept: continue from it with a smaller"
        " optimizer.learning_rate or with optimizer.clip_norm=1"
      )


def _all_processes_agree(here: bool) -> bool:
  if jax.process_count() == 1:
    return here
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


@contextlib.contextmanager
def _storage_errors(what: str, workdir: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # TensorStore's errors have no common class.
    reason = next((s for s in _SYSTEM_REASONS if s in str(error)), None)
    raise errors.CheckpointError(
      f"cannot {what} checkpoints in {workdir}:"
      f" {reason.lower() if reason else _one_line(error)}"
    ) from error


def _one_line(error: Exception) -> str:
  text = " ".join(str(error).split())
  text = text if len(text) <= 200 else text[:197] + "..."
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
