"""Does a run that is killed end as if nothing had happened?

    python experiments/kill_and_resume/run.py

Trains stage 2 (two optimisers, a moving average, the data iterator) to its end,
then a second time with a kill -9 at ten random moments and a new start after
each, and compares every array of the last checkpoints. About half of the moments
aim at the writing of a checkpoint. Exit code 1 if anything differs.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

from egic_jax.training import manifest, workdir

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]

STEPS = 30
CHECKPOINT_EVERY = 3
# Of what one step and one save take here; a moment is drawn from these spans.
SPAN_SECONDS = 1.0
SAVE_SECONDS = 0.05
START_SECONDS = 20.0

OVERRIDES = (
  f"train.init_from={REPOSITORY / 'experiments/stage1_mse/tiny.safetensors'}",
  f"train.steps={STEPS}",
  "data.config=tiny",
  "data.crop_size=64",
  "data.batch_size=2",
  "train.log_every=1",
  f"train.checkpoint_every={CHECKPOINT_EVERY}",
  "train.num_samples=0",
)


@dataclasses.dataclass(frozen=True)
class Moment:
  """When to kill.

  Attributes:
    where: "start" (before the first step), "step" or "save".
    number: the step after which, or the checkpoint in the midst of which.
    delay_seconds: so much later.
  """

  where: str
  number: int
  delay_seconds: float

  def __str__(self) -> str:
    delay = f"{1000 * self.delay_seconds:.0f} ms"
    if self.where == "start":
      return f"{delay} after the start"
    if self.where == "step":
      return f"{delay} after step {self.number}"
    return f"{delay} into the writing of checkpoint {self.number}"


def draw(seed: int, count: int) -> list[Moment]:
  """Random moments of a run, in order; every one after a start of its own."""
  generator = random.Random(seed)
  moments = []
  for step in sorted(generator.sample(range(1, STEPS), count)):
    where = generator.choices(("start", "step", "save"), (1, 4, 5))[0]
    span = {
      "start": START_SECONDS,
      "step": SPAN_SECONDS,
      "save": SAVE_SECONDS,
    }[where]
    if where == "save":
      # The next one.
      step += -step % CHECKPOINT_EVERY
    moments.append(Moment(where, step, generator.uniform(0, span)))
  return moments


def start(directory: pathlib.Path) -> subprocess.Popen:
  """`egic train` of stage 2."""
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "egic_jax", "train"),
      *("--config", str(REPOSITORY / "configs" / "tiny_gan.py")),
      *("--workdir", str(directory)),
      *OVERRIDES,
    ],
    cwd=REPOSITORY,
    # Two dozen starts and few steps: compile quickly.
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process: subprocess.Popen) -> str:
  """What it printed; ends the study if it failed."""
  output, errors = process.communicate()
  if process.returncode:
    sys.exit(f"the training failed:\n{output}\n{errors}")
  return output


def kill(process: subprocess.Popen, directory: pathlib.Path, moment: Moment):
  """Waits for the moment, then kill -9; returns what was printed."""
  printed = []
  if moment.where == "save":
    # What is printed meanwhile fits into the pipe.
    while process.poll() is None and not _is_saving(directory, moment.number):
      time.sleep(0.002)
  elif moment.where == "step":
    for line in process.stdout:
      printed.append(line)
      found = re.match(r"step +(\d+)/", line)
      if found and int(found[1]) >= moment.number:
        break
  time.sleep(moment.delay_seconds)
  process.send_signal(signal.SIGKILL)
  output, _ = process.communicate()
  return "".join(printed) + output


def _is_saving(directory: pathlib.Path, step: int) -> bool:
  return any(
    int(path.name.partition(".")[0]) >= step
    for path in directory.glob(f"{workdir.CHECKPOINTS}/*.orbax-checkpoint-tmp*")
  )


def read_all(directory: pathlib.Path) -> dict[str, np.ndarray]:
  """Every array of the last checkpoint, and the data iterator's position."""
  step = workdir.steps_on_disk(directory)[0]
  checkpoint = directory / workdir.CHECKPOINTS / str(step)
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(checkpoint / "state").tree
  state = handler.restore(
    checkpoint / "state",
    args=ocp.args.PyTreeRestore(
      restore_args=jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
      )
    ),
  )
  arrays = manifest.named_arrays(state)
  position = json.loads(
    (checkpoint / "data" / "process_0-of-1.json").read_text()
  )
  return arrays | {"data position": np.array(position["next_index"])}


def count_equal(
  expected: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> int:
  """Arrays that are the same, bit for bit."""
  return sum(
    name in found
    and found[name].dtype == array.dtype
    and found[name].tobytes() == array.tobytes()
    for name, array in expected.items()
  )


def main() -> int:
  """Prints a table; see the module."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--moments", type=int, default=10, metavar="N")
  parser.add_argument("--seed", type=int, default=0, metavar="SEED")
  parser.add_argument(
    "--runs", metavar="DIR", help="where work directories go and stay"
  )
  arguments = parser.parse_args()
  root = pathlib.Path(arguments.runs or tempfile.mkdtemp()).absolute()
  root.mkdir(parents=True, exist_ok=True)
  try:
    return study(root, arguments.moments, arguments.seed)
  finally:
    if not arguments.runs:
      shutil.rmtree(root)


def study(root: pathlib.Path, moments: int, seed: int) -> int:
  """The runs, in *root*; the exit code."""
  finish(start(root / "whole"))
  expected = read_all(root / "whole")
  parts = sorted({name.split("/")[0] for name in expected})
  print(
    f"{len(expected)} arrays, {sum(x.size for x in expected.values()):,}"
    f" numbers: {', '.join(parts)}"
  )
  directory = root / "killed"
  shutil.rmtree(directory, ignore_errors=True)
  print("| killed | had started from | had printed | left, good | left, half |")
  print("|---|---|---|---|---|")
  for moment in draw(seed, moments):
    printed = kill(start(directory), directory, moment)
    kept = sorted(workdir.steps_on_disk(directory))
    partial = directory.glob(f"{workdir.CHECKPOINTS}/*.orbax-checkpoint-tmp*")
    half = [path.name.partition(".")[0] for path in partial]
    steps = re.findall(r"^step +(\d+)/", printed, re.MULTILINE)
    print(
      f"| {moment} | {_started_from(printed)}"
      f" | {f'up to step {steps[-1]}' if steps else 'no step'}"
      f" | {', '.join(map(str, kept)) or 'none'}"
      f" | {', '.join(half) or 'none'} |",
      flush=True,
    )
  printed = finish(start(directory))
  equal = count_equal(expected, read_all(directory))
  print(
    f"the last start went on from step {_started_from(printed)};"
    f" {equal} of {len(expected)} equal bit for bit"
  )
  return 0 if equal == len(expected) else 1


def _started_from(printed: str) -> str:
  found = re.search(r"continuing after step (\d+)", printed)
  return found[1] if found else "0"


if __name__ == "__main__":
  sys.exit(main())
