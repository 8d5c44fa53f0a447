"""Several processes as one run: how they find each other, and agree."""

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np

from egic_jax.training import errors

_Result = TypeVar("_Result")

# Option of the command line > variable of the environment.
VARIABLES = {
  "coordinator": "JAX_COORDINATOR_ADDRESS",
  "num-processes": "JAX_NUM_PROCESSES",
  "process-id": "JAX_PROCESS_ID",
}


def start(
  options: Mapping[str, str | None],
  *,
  detect: bool,
  timeout_seconds: int = 300,
) -> bool:
  """Joins the other processes, if there are any; before jax has a device.

  Args:
    options: values of the options in `VARIABLES`; what is None comes from the
      environment.
    detect: ask the cluster (a TPU pod, SLURM, Open MPI, Kubernetes) for what is
      not given; if nothing is given, too.
    timeout_seconds: for the first process to answer.

  Returns:
    Whether there is anything to join.

  Raises:
    ValueError: an option is missing or not a number in its range.
    errors.TrainingError: the processes do not find each other.
  """
  given = {
    name: options.get(name) or os.environ.get(variable)
    for name, variable in VARIABLES.items()
  }
  if not detect and not any(given.values()):
    return False
  missing = [f"--{name}" for name, value in given.items() if not value]
  if missing and not detect:
    raise ValueError(
      f"{', '.join(missing)}: missing; give all of --coordinator,"
      " --num-processes and --process-id, or --distributed to ask the cluster"
    )
  address = given["coordinator"]
  if address and not address.rpartition(":")[2].isdigit():
    raise ValueError(
      f"--coordinator={address}: must be HOST:PORT, a free port on the machine"
      " of process 0"
    )
  count = _number("num-processes", given["num-processes"], 1)
  index = _number("process-id", given["process-id"], 0)
  if count is not None and index is not None and index >= count:
    raise ValueError(
      f"--process-id={index}: must be less than --num-processes={count}"
    )
  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      # SLURM's detection would hide all devices but one from each process.
      cluster_detection_method=None if missing else "deactivate",
      initialization_timeout=timeout_seconds,
    )
  except ValueError as error:
    raise ValueError(
      "--distributed: no cluster that jax knows is here"
      f" ({_first_line(error)}); give --coordinator, --num-processes and"
      " --process-id"
    ) from error
  except RuntimeError as error:
    raise errors.TrainingError(
      f"process {index} of {count} cannot join the others at {address}:"
      f" {_first_line(error)}"
    ) from error
  return True


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [""])[0][:200]


def _number(name: str, text: str | None, least: int) -> int | None:
  if text is None or text == "":
    return None
  if not text.isdecimal() or int(text) < least:
    raise ValueError(f"--{name}={text}: must be a whole number >= {least}")
  return int(text)


def all_agree(here: bool) -> bool:
  """Whether *here* is true on every process; all have to call it."""
  if jax.process_count() == 1:
    return here
  from jax.experimental import multihost_utils

  return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def check_same(what: str, text: str) -> None:
  """TrainingError unless every process gives the same text."""
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  found = multihost_utils.process_allgather(digest)
  if other := [i for i, row in enumerate(found) if not (row == found[0]).all()]:
    raise errors.TrainingError(
      f"process {other[0]} has {what} other than process 0: start all of them"
      " with the same command, on the same data"
    )


def first_then_others(action: Callable[[], _Result]) -> _Result:
  """What *action* gives, called on process 0 before the others.

  Raises:
    errors.TrainingError: it failed on another process; where it failed, that
      error is raised.
  """
  result = None
  for is_our_turn in (jax.process_index() == 0, jax.process_index() > 0):
    problem = None
    if is_our_turn:
      try:
        result = action()
      except Exception as error:
        problem = error
    if not all_agree(problem is None):
      raise problem or errors.TrainingError(
        "another process could not go on; it says why"
      )
  return result
