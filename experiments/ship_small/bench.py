"""How many updates and squares a second a machine makes."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import plan
import programs
import slices

from egic_jax.training import initial, sharding


def run(
  settings: plan.Settings,
  *,
  packs: Sequence[pathlib.Path],
  stage: str,
  batch_sizes: Sequence[int],
  kinds: Sequence[str],
  seconds: float,
  report: Callable[[str], None],
) -> None:
  """Reports a line for each optimiser and batch size, with new parameters.

  Args:
    settings: the size.
    packs: folders that `photographs.pack` wrote.
    stage: one that starts from nothing: stage0_discriminator or stage1_mse.
    batch_sizes: to try, smallest first.
    kinds: optimisers to try.
    seconds: that each is run, after compiling and one update.
    report: told each line.

  Raises:
    ValueError: there is no such stage.
  """
  if stage not in settings.stages:
    raise ValueError(f"--stage={stage}: there are {', '.join(settings.stages)}")
  classes, atlas, _, _ = slices.load_atlases(packs, report)
  networks = programs.make_networks(settings, len(classes) - 1)
  mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
  key = jax.random.key(0)
  report("optimiser  batch  compiling, s  updates/s  squares/s  peak, GiB")
  for kind in kinds:
    for batch_size in batch_sizes:
      changed = dataclasses.replace(
        settings.stages[stage], kind=kind, batch_size=batch_size
      )
      program = programs.StageProgram(
        stage,
        dataclasses.replace(
          settings, stages={**settings.stages, stage: changed}
        ),
        networks,
        atlas,
      )
      batch = sharding.global_batch(
        jax.device_get(jax.jit(program.batch)(key, atlas)), mesh
      )
      params = initial.complete(
        initial.Start(), program.stage, networks, seed=0, batch=batch, mesh=mesh
      )
      state = jax.device_put(program.create(jax.device_get(params), 0))
      compiling = program.compile(state, key)
      line = f"{kind:9}  {batch_size:5}  {compiling:12.1f}"
      try:
        state, pace = _pace(program, state, key, seconds)
      except jax.errors.JaxRuntimeError as error:
        report(f"{line}  {str(error).splitlines()[0][:80]}")
        continue
      report(
        f"{line}  {1 / pace:9.2f}  {batch_size / pace:9.1f}  {_peak():9.2f}"
      )


def _pace(program, state, key, seconds):
  """Seconds of an update: the best of three dispatches, after one update."""
  fixed = {"origin": 0.0, "slope": 0.0}
  state, _ = program(state, key, count=1, **fixed)
  start = time.monotonic()
  state, _ = program(state, key, count=1, **fixed)
  count = max(int(seconds / 3 / (time.monotonic() - start)), 1)
  paces = []
  for _ in range(3):
    start = time.monotonic()
    state, _ = program(state, key, count=count, **fixed)
    paces.append((time.monotonic() - start) / count)
  return state, min(paces)


def _peak():
  """Of device memory, over all runs so far; the CPU backend does not tell."""
  statistics = jax.local_devices()[0].memory_stats() or {}
  return statistics.get("peak_bytes_in_use", float("nan")) / 2**30
