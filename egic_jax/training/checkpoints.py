"""Checkpoints: written whole, read back verified.

Orbax stores the arrays. It does not notice a flipped bit in them, so each
checkpoint also has a manifest with a SHA-256 of every array, of the data
iterator's position and the identity of the data set; what fails to match is
not used, and the next older checkpoint is.
"""

import contextlib
import errno
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from egic_jax.training import errors, processes
from egic_jax.training import manifest as manifest_lib
from egic_jax.training import state as state_lib
from egic_jax.training.parameters import load_discriminator, load_parameters
from egic_jax.training.workdir import (
  CHECKPOINTS,
  has_checkpoint,
  read_config,
  write_config,
)

# Who reads checkpoints needs no other module of this package.
__all__ = [
  "Checkpoints",
  "has_checkpoint",
  "load_discriminator",
  "load_parameters",
  "read_config",
  "write_config",
]

_CORRUPT = "corrupt_checkpoints"
# Parts of a checkpoint, beside the manifest.
_STATE = "state"
_DATA = "data"
# What names of an optimiser's arrays begin with.
_MOMENTS = "opt_state/"

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
      directory = self._workdir / CHECKPOINTS
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
    arrays = manifest_lib.named_arrays(saved)
    _check_finite(arrays, step)
    manifest = manifest_lib.make(
      arrays,
      step=step,
      dataset_identity=self._identity,
      iterator=iterator,
    )
    with _storage_errors("write", self._workdir):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **{
            _STATE: ocp.args.StandardSave(saved),
            _DATA: grain.checkpoint.CheckpointSave(iterator),
            manifest_lib.ITEM: ocp.args.JsonSave(manifest),
          }
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
      abstract_state: shapes, types and shardings of the state; devices,
        processes and how the state is split need not be those of the run that
        saved.
      iterator: a grain iterator, set to the checkpoint's position in place.

    Returns:
      The state, or None if there is no checkpoint at all.

    Raises:
      CheckpointError: there are checkpoints, but no good one.
      ValueError: the checkpoint belongs to other data, or is of another
        optimiser.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    bad = []
    for step in steps:
      state, problem = self._attempt(step, abstract_state, iterator)
      if not problem:
        self._set_aside(bad)
        return state
      self._report(f"checkpoint {step} is damaged and not used: {problem}")
      bad.append(step)
    if not steps:
      return None
    raise errors.CheckpointError(
      f"none of the {len(steps)} checkpoints in {self._workdir / CHECKPOINTS}"
      f" can be read (newest: {problem}); remove that directory to start anew"
    )

  def close(self) -> None:
    """Waits for writes and releases Orbax's threads."""
    with _storage_errors("write", self._workdir):
      self._manager.close()

  def _attempt(self, step, abstract_state, iterator):
    """(state, "") or (None, what is wrong with it), the same everywhere.

    In two parts, after each of which the processes agree: in the second they
    exchange pieces of arrays, and one that could not read them would be missed.
    """
    result, problem = None, ""
    for part in (self._read, self._verify):
      try:
        result = part(step, abstract_state, iterator, result)
      except _Mismatch as error:
        raise ValueError(str(error)) from None
      except Exception as error:  # Orbax raises all sorts on broken files.
        problem = errors.one_line(error)
      if not processes.all_agree(not problem):
        return None, problem or "another process could not read it"
    return result, ""

  def _read(self, step, abstract_state, iterator, _):
    directory = self._workdir / CHECKPOINTS / str(step)
    manifest = manifest_lib.read(directory, step)
    self._check_identity(manifest, step)
    self._check_moments(manifest, step, abstract_state)
    # The bare handler: the manager's would wait for the other processes, for
    # ever if one of them meets an error.
    handler = ocp.StandardCheckpointHandler()
    saved = handler.restore(
      directory / _STATE,
      args=ocp.args.StandardRestore(abstract_state.to_saved()),
    )
    handler.close()
    iterator.set_state(_read_position(directory / _DATA))
    return manifest, saved

  def _verify(self, step, abstract_state, iterator, result):
    manifest, saved = result
    manifest_lib.check(manifest_lib.named_arrays(saved), manifest)
    state = abstract_state.replace(**saved)
    if int(state.step) != step:
      raise ValueError(f"it says it is step {int(state.step)}")
    if manifest["iterator"] != manifest_lib.iterator_digest(iterator):
      raise ValueError("the data iterator's position differs from its SHA-256")
    return state

  def _check_identity(self, manifest, step):
    saved = manifest["dataset_identity"]
    if saved != self._identity:
      raise _Mismatch(
        f"checkpoint {step} was trained on {saved} and this run's data are"
        f" {self._identity}: restore the data set, or use another --workdir"
      )

  def _check_moments(self, manifest, step, abstract_state):
    shapes = manifest_lib.named_arrays(abstract_state.to_saved(), fetch=False)
    saved, wanted = (
      {name for name in names if name.startswith(_MOMENTS)}
      for names in (manifest["sha256"], shapes)
    )
    # Where only one side has more, something is missing, and that is damage.
    if saved - wanted and wanted - saved:
      raise _Mismatch(
        f"checkpoint {step} was written with another optimizer.kind, or by an"
        f" earlier version ({min(wanted - saved)} is not in it): go on from its"
        f" parameters, with another --workdir and train.init_from={self._workdir}"
      )

  def _set_aside(self, steps):
    if not steps:
      return
    directory = self._workdir / _CORRUPT

    def move():
      if jax.process_index() > 0:
        return
      with _storage_errors("write", self._workdir):
        directory.mkdir(exist_ok=True)
        for step in steps:
          target = directory / str(step)
          number = 1
          while target.exists():
            number += 1
            target = directory / f"{step}-{number}"
          (self._workdir / CHECKPOINTS / str(step)).rename(target)

    processes.first_then_others(move)
    self._manager.reload()
    self._report(f"damaged checkpoints were moved to {directory}")


class _Mismatch(Exception):
  """A good checkpoint, but of another run."""


def _read_position(directory: pathlib.Path) -> dict[str, int]:
  """What grain stored of process 0's iterator.

  Every process takes the same number of batches of its own, so it is the
  position of all, of any number of them.
  """
  paths = list(directory.glob("process_0-of-*.json"))
  if len(paths) != 1:
    raise ValueError("its data position is missing")
  return json.loads(paths[0].read_text())


def _check_finite(arrays: dict[str, np.ndarray], step: int) -> None:
  for name, array in arrays.items():
    if not np.all(np.isfinite(array)):
      raise errors.CheckpointError(
        f"step {step}: {name} is not finite, so it was not saved; the last"
        " good checkpoint is kept: continue from it with a smaller"
        " optimizer.learning_rate or with optimizer.clip_norm=1"
      )


@contextlib.contextmanager
def _storage_errors(what: str, workdir: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except Exception as error:  # TensorStore's errors have no common class.
    reason = next((s for s in _SYSTEM_REASONS if s in str(error)), None)
    raise errors.CheckpointError(
      f"cannot {what} checkpoints in {workdir}:"
      f" {reason.lower() if reason else errors.one_line(error)}"
    ) from error
