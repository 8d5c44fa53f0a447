"""Programs of stages, compiled before the machine that runs them is there."""

import pathlib
import sys
import time
from collections.abc import Callable, Sequence

import jax
import photographs
import plan
import programs
import squares
from jax.sharding import SingleDeviceSharding

_BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


def compile_stages(
  settings: plan.Settings,
  *,
  packs: Sequence[pathlib.Path],
  names: Sequence[str],
  to: pathlib.Path,
  tuned: pathlib.Path | None,
  report: Callable[[str], None],
) -> None:
  """Writes a program for each stage, for `train --programs`.

  Args:
    settings: those of the training.
    packs: those of the training; sizes of pictures are part of a program.
    names: of stages.
    to: a folder.
    tuned: see `described_gpu.set_flags`.
    report: told each line.

  Raises:
    ValueError: no such stage, or jax cannot compile for such a GPU.
  """
  unknown = ", ".join(name for name in names if name not in settings.stages)
  if unknown:
    raise ValueError(
      f"--stages: no {unknown}; there are {', '.join(settings.stages)}"
    )
  sys.path.append(str(_BENCHMARKS))
  import described_gpu

  jax.config.update("jax_platforms", "cpu")
  described_gpu.set_flags(tuned)
  try:
    described_gpu.pretend_kernels(True)
    where = SingleDeviceSharding(described_gpu.devices()[0])
  except ImportError as error:
    raise ValueError(
      f"{error}: pip install 'jax[cuda13]', beside a jax of 0.11 or later"
    ) from None
  classes, pictures, _ = photographs.read(packs)
  atlas = _shapes(squares.make_atlas(pictures["train"]))
  networks = programs.make_networks(settings, len(classes) - 1, "gpu")
  key = jax.eval_shape(lambda: jax.random.key(0))
  to.mkdir(parents=True, exist_ok=True)
  for name in names:
    start = time.monotonic()
    program = programs.StageProgram(
      name, settings, networks, atlas, kept=to, platform="gpu"
    )
    lowered = program.lower(
      program.state_shapes(),
      atlas,
      key,
      in_shardings=where,
      out_shardings=where,
    )
    path = program.keep(lowered)
    report(
      f"{path}: {path.stat().st_size / 1e6:.0f} MB,"
      f" {time.monotonic() - start:.0f} s"
    )


def _shapes(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
