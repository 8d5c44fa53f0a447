"""What studies on photographs share: arguments, and egic's commands in turn.

A study is a script that calls these and a README that tells its result. Run it
in the root of the repository. Every training continues where it stopped or finds
itself done.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Sequence

# Of stages 0, 2 and 3: all photographs, with the scale jitter of the paper.
JITTER = ("data.scale_range=(0.5,1.5)", "data.scale_step=0.1")


def make_parser(documentation: str) -> argparse.ArgumentParser:
  """Arguments that every study on photographs has."""
  parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
  parser.add_argument(
    "--photographs",
    required=True,
    metavar="DIR",
    help="folder of image sets, see data.folder in configs/base.py",
  )
  parser.add_argument(
    "--runs", default="runs", metavar="DIR", help="where work directories go"
  )
  parser.add_argument(
    "overrides",
    nargs="*",
    metavar="key=value",
    help="for all trainings of the study, such as train.steps=100",
  )
  return parser


def train(
  workdir: pathlib.Path,
  photographs: str,
  *overrides: str,
  config: str = "tiny_mse",
) -> None:
  """`egic train` on photographs; nothing where it is done already."""
  egic(*train_arguments(workdir, photographs, *overrides, config=config))


def train_arguments(
  workdir: pathlib.Path,
  photographs: str,
  *overrides: str,
  config: str = "tiny_mse",
) -> tuple[str, ...]:
  """What `train` passes to egic."""
  return (
    "train",
    "--config",
    f"configs/{config}.py",
    "--workdir",
    str(workdir),
    f"data.folder={photographs}",
    "data.taxonomy=photographs",
    *overrides,
  )


def egic(*arguments: str) -> None:
  """Runs a command; ends the study where it fails."""
  run([sys.executable, "-m", "egic_jax", *arguments], "egic", *arguments)


def script(name: str, *arguments: str) -> None:
  """Likewise a script of experiments/."""
  path = f"experiments/{name}"
  run([sys.executable, path, *arguments], "python", path, *arguments)


def run(command: Sequence[str], *shown: str) -> None:
  """Runs a command, telling it as *shown*."""
  print("\n$ " + " ".join(shown), flush=True)
  code = subprocess.run(command).returncode
  if code:
    sys.exit(code)
