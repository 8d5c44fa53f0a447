"""`egic train`: trains a stage, or continues training it."""

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence

from egic_jax.cli import overrides


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic train",
    description=(
      "Train a codec, or one stage of it: the configuration says which, and"
      " train.init_from where it starts from. A work directory that has"
      " checkpoints is continued from the newest good one."
    ),
    epilog=(
      "Example: egic train --config configs/tiny.py --workdir runs/tiny"
      " loss.rate_weight=2 train.steps=1000. All keys: configs/base.py."
    ),
  )
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE",
    help="a Python file with get_config(), such as configs/tiny.py",
  )
  parser.add_argument(
    "--workdir",
    required=True,
    metavar="DIRECTORY",
    help="where configuration, checkpoints, event files and samples go",
  )
  parser.add_argument(
    "--distributed",
    action="store_true",
    help=(
      "one of several processes; the cluster (TPU pod, SLURM, Open MPI,"
      " Kubernetes) tells jax how many and which"
    ),
  )
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help=(
      "one of several processes, no cluster to ask: where process 0 listens"
      " (JAX_COORDINATOR_ADDRESS)"
    ),
  )
  parser.add_argument(
    "--num-processes",
    metavar="N",
    help="with --coordinator: how many (JAX_NUM_PROCESSES)",
  )
  parser.add_argument(
    "--process-id",
    metavar="I",
    help="with --coordinator: which one this is, from 0 (JAX_PROCESS_ID)",
  )
  parser.add_argument(
    "overrides",
    nargs="*",
    metavar="section.key=value",
    help="replaces a value of the configuration",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command.

  Args:
    argv: arguments after `egic train`.

  Returns:
    The exit code: 0 when done or interrupted and saved, 1 after an error that
    was told in one line (with EGIC_TRACEBACK set, by a traceback).
  """
  parser = make_parser()
  arguments, unknown = parser.parse_known_intermixed_args(argv)
  for text in unknown:
    # --config.section.key=value, as other projects write it.
    if not text.startswith("--config."):
      parser.error(f"unrecognized argument: {text}")

  if not os.environ.get("EGIC_TRACEBACK"):
    # When storage fails, Orbax logs the tracebacks of its threads besides
    # raising their error, and TensorStore's threads print some more by way of
    # the hook. An error of this thread is caught below or after the return.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.excepthook = _main_thread_only
  try:
    config = overrides.load_config(arguments.config)
    overrides.apply_overrides(config, [*arguments.overrides, *unknown])

    from egic_jax import runtime

    runtime.configure()
    # jax is imported only now: the allocator has to be set before.
    from egic_jax.training import errors, processes, trainer

    try:
      processes.start(
        {
          "coordinator": arguments.coordinator,
          "num-processes": arguments.num_processes,
          "process-id": arguments.process_id,
        },
        detect=arguments.distributed,
      )
      trainer.train(config, arguments.workdir)
    except errors.TrainingError as error:
      return _fail(error)
  except (ValueError, OSError, ImportError) as error:
    return _fail(error)
  except KeyboardInterrupt:
    print("egic train: stopped", file=sys.stderr)
    return 130
  return 0


def _main_thread_only(*exception) -> None:
  if threading.current_thread() is threading.main_thread():
    sys.__excepthook__(*exception)


def _fail(error: Exception) -> int:
  if os.environ.get("EGIC_TRACEBACK"):
    raise error
  text = " ".join(str(error).split()) or type(error).__name__
  print(f"egic train: error: {text}", file=sys.stderr)
  return 1
