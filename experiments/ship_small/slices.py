"""One slice of the training: as much as the minutes allow, then saved."""

import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import clock as clock_lib
import curves_file
import handover
import jax
import numpy as np
import photographs
import plan
import programs
import saved
import squares

from egic_jax.training import errors, initial, panels, sharding, views
from egic_jax.training import state as state_lib
from egic_jax.training import stop_signal as stop_signal_lib

Report = Callable[[str], None]

CURVES, PLOT, SAMPLES = "curves.csv", "curves.png", "samples.png"
# Squares to measure on: one at each level of quality.
_NUM_SAMPLES = plan.RATE_LEVELS
_MAX_RETRIES = 3
_REPORT_SECONDS = 10.0


def load_atlases(
  packs: Sequence[pathlib.Path], report: Report
) -> tuple[tuple[str, ...], squares.Atlas, squares.Atlas, str]:
  """Classes, atlas to train on (on the device), atlas to measure on, name."""
  start = time.monotonic()
  classes, pictures, identity = photographs.read(packs)
  training = squares.make_atlas(pictures["train"])
  validation = squares.make_atlas(pictures["validation"])
  report(
    f"{training.num_pictures} photographs to train on, {training.num_labelled}"
    f" with a label map, {training.pixels.nbytes / 2**20:.0f} MiB decoded in"
    f" {time.monotonic() - start:.1f} s; {validation.num_pictures} to measure"
    f" on; {len(classes) - 1} classes"
  )
  return classes, jax.device_put(training), validation, identity


class Slice:
  """A training that goes on from its newest save."""

  def __init__(
    self,
    settings: plan.Settings,
    *,
    size: str,
    packs: Sequence[pathlib.Path],
    out: pathlib.Path,
    start_from: pathlib.Path | None = None,
    length: plan.Length,
    seconds: float,
    started: float,
    max_updates: int | None = None,
    kept_programs: pathlib.Path | None = None,
    report: Report,
  ):
    """Reads photographs and the newest save.

    Args:
      settings: what to train and how.
      size: their name; a save of another is refused.
      packs: folders that `photographs.pack` wrote.
      out: where saves go. One that is there already comes first.
      start_from: a save, or a folder of saves, to start from otherwise.
      length: of all stages together.
      seconds: of this slice, from *started* on.
      started: a time of time.monotonic.
      max_updates: of this slice; None for no limit.
      kept_programs: a folder of programs compiled on another machine.
      report: told each line for the user.

    Raises:
      ValueError: no photographs, or a save that does not fit.
    """
    self._settings = settings
    self._out = out
    self._clock = clock_lib.Clock(
      settings,
      length,
      seconds=seconds,
      started=started,
      max_updates=max_updates,
    )
    self._report = report
    classes, self._atlas, self._validation, identity = load_atlases(
      packs, report
    )
    self._networks = programs.make_networks(settings, len(classes) - 1)
    self._mesh = sharding.make_mesh(1, 1, devices=jax.devices()[:1])
    self._panel_seconds = 0.0
    self._samples = b""
    self._position = clock_lib.start_position(settings, size)
    self._programs: dict[str, programs.StageProgram] = {}
    self._kept_programs = kept_programs
    self._curves = curves_file.Curves()
    self._kept: dict[str, Any] = {}
    self._state: state_lib.TrainState | None = None
    source = saved.newest(out) or (start_from and saved.newest(start_from))
    if start_from and not source:
      raise ValueError(f"--from={start_from}: holds no save")
    if source:
      self._resume(source)
      if self._position["data"] != identity:
        report("other photographs than in the slice before: new squares")
    self._position["data"] = identity
    self._position["classes"] = list(classes)
    self._position["slices"] += 1

  def run(self) -> bool:
    """Trains until the slice or all stages are over.

    Returns:
      Whether all stages are done.

    Raises:
      errors.TrainingError: losses are not finite, again and again.
    """
    with stop_signal_lib.StopSignal(self._report) as self._stop:
      is_first = True
      while self._position["stage"]:
        needed = 1.5 * self._position["compile_seconds"] + self._clock.reserve()
        left = self._clock.seconds_left()
        if not is_first and (self._is_over() or left < needed):
          self._report("the next stage is left to the next slice")
          return False
        is_first = False
        if not self._train_stage(self._position["stage"]):
          return False
    self._report(
      f"all stages are done: {self._position['updates']} updates,"
      f" {self._position['images']:,} squares,"
      f" {self._position['seconds'] / 60:.1f} minutes"
    )
    return True

  def _train_stage(self, name):
    """Goes on with a stage; whether it is finished."""
    program = self._program(name)
    number = list(self._settings.stages).index(name)
    key = jax.random.fold_in(jax.random.key(self._settings.seed), number)
    if self._state is None:
      self._state = jax.device_put(self._new_state(program, key))
    key = jax.random.fold_in(key, self._position["retries"])
    # Already there after a step back.
    seconds = 0.0 if program.compiled else program.compile(self._state, key)
    self._position["compile_seconds"] = max(
      seconds, self._position["compile_seconds"]
    )
    self._report(f"{name}: compiled in {seconds:.1f} s")
    sampler_folder = tempfile.TemporaryDirectory()
    sampler = None
    if math.isfinite(self._settings.panel_seconds):
      sampler = panels.Sampler(
        views.make_views(self._networks)[program.stage.view],
        self._measured_on(program.stage.needs_labels),
        self._mesh,
        pathlib.Path(sampler_folder.name),
        self._curves,
      )
    self._clock.plan(self._position)
    pace = None
    reported = saved_at = shown = time.monotonic()
    with sampler_folder:
      while True:
        count = 0
        if not self._stop.received:
          count = self._clock.next_count(self._position, pace)
        if count:
          origin, slope = self._clock.progress(self._position, pace)
          start = time.monotonic()
          self._state, metrics = program(
            self._state, key, count=count, origin=origin, slope=slope
          )
          last = (time.monotonic() - start) / count
          # The first call also loads the program.
          pace = last if pace is None else 0.5 * (pace + last)
          if not all(np.isfinite(value) for value in metrics.values()):
            return self._retry(metrics)
          images = count * program.plan.batch_size
          self._clock.count(self._position, count, images)
          now = time.monotonic()
          done = self._clock.is_done(self._position)
          if now - reported > _REPORT_SECONDS or done:
            reported = now
            self._write(name, metrics | {"updates_per_second": 1 / last})
        done = self._clock.is_done(self._position)
        over = not done and (not count or self._is_over())
        now = time.monotonic()
        every = self._settings.panel_seconds
        if sampler and (done or now - shown > every):
          spare = self._clock.seconds_left() - self._clock.reserve()
          if spare > self._panel_seconds:
            self._show(sampler, name)
          shown = time.monotonic()
        if done:
          self._finish(name)
        if done or over or now - saved_at > self._settings.save_seconds:
          self._save()
          saved_at = time.monotonic()
        if done or over:
          return done

  def _program(self, name):
    if name not in self._programs:
      self._programs[name] = programs.StageProgram(
        name,
        self._settings,
        self._networks,
        self._atlas,
        self._kept_programs,
      )
    return self._programs[name]

  def _new_state(self, program, key):
    stage = program.stage
    batch = {}
    if "discriminator" in stage.params:
      batch = jax.jit(program.batch)(jax.random.fold_in(key, 1), self._atlas)
      batch = sharding.global_batch(jax.device_get(batch), self._mesh)
    start = initial.Start(
      {g: self._kept[g] for g in stage.params if g in self._kept},
      only_segmented={"codec", "discriminator"} <= set(stage.params)
      and "discriminator" in self._kept,
    )
    params = initial.complete(
      start,
      stage,
      self._networks,
      seed=self._settings.seed,
      batch=batch,
      mesh=self._mesh,
    )
    params = jax.device_get(params)
    return jax.device_get(program.create(params, self._settings.seed))

  def _measured_on(self, labelled):
    return jax.device_get(
      squares.middles(
        self._validation,
        count=_NUM_SAMPLES,
        size=self._settings.crop_size,
        labelled=labelled,
      )
    )

  def _is_over(self):
    return self._stop.received or self._clock.is_over()

  # What is written.

  def _write(self, name, metrics):
    position = self._position
    self._curves.at(position["seconds"], position["slices"], name)
    self._curves.write_scalars(position["update"], metrics)
    shown = "  ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items()))
    self._report(
      f"{position['seconds']:7.1f} s  {name} {position['update']}: {shown}"
    )

  def _show(self, sampler, name):
    start = time.monotonic()
    self._curves.at(self._position["seconds"], self._position["slices"], name)
    line = sampler(self._position["update"], self._state.variables)
    path = pathlib.Path(line.rpartition("  ")[2])
    self._samples = path.read_bytes()
    path.unlink()
    self._report(line.rpartition("  ")[0])
    self._panel_seconds = time.monotonic() - start

  def _finish(self, name):
    """Keeps what a stage has trained and goes on to the next."""
    # Copies: what the CPU backend hands out may be its own, donated memory.
    variables = jax.tree.map(np.array, self._state.variables)
    del variables["spectral"]
    self._kept |= variables
    self._state = None
    del self._programs[name]
    names = [*self._settings.stages, ""]
    self._clock.mark(self._position)
    self._position["stage"] = names[names.index(name) + 1]
    self._position["update"] = 0

  def _save(self):
    start = time.monotonic()
    if self._position["stage"] and self._state is not None:
      self._clock.mark(self._position)
    self._position["saves"] += 1
    params, others = handover.to_arrays(self._state, self._kept)
    files = {CURVES: self._curves.to_csv(), PLOT: self._curves.to_png()}
    files[SAMPLES] = self._samples
    folder = saved.save(
      self._out,
      params=params,
      others=others,
      position=self._position,
      moments=self._settings.moments,
      attachments={name: data for name, data in files.items() if data},
    )
    seconds = time.monotonic() - start
    self._clock.save_seconds = seconds
    self._report(f"saved {folder} in {seconds:.1f} s")

  def _resume(self, source):
    params, others, position = saved.load(source)
    if position["size"] != self._position["size"]:
      raise ValueError(
        f"{source}: a training of --size={position['size']}, not"
        f" {self._position['size']}"
      )
    self._position = {k: v for k, v in position.items() if k != "lean"}
    curves = source / CURVES
    if curves.is_file():
      self._curves = curves_file.Curves(curves.read_text())
    if (source / SAMPLES).is_file():
      self._samples = (source / SAMPLES).read_bytes()
    lean = others is None or position.get("lean", False)
    if lean and any(name.startswith("now") for name in params):
      self._report("without moments and averages: they start anew")
    name = position["stage"]
    self._state, self._kept = handover.from_arrays(
      params,
      None if lean else others,
      networks=self._networks,
      program=self._program(name) if name else None,
      update=position["update"],
      seed=self._settings.seed,
    )
    self._report(
      f"going on from {source}: {position['stage'] or 'all stages done'},"
      f" update {position['update']}, {position['seconds'] / 60:.1f} minutes"
    )

  def _retry(self, metrics):
    """Back to the last save with other squares; False: the slice goes on."""
    bad = ", ".join(k for k, v in metrics.items() if not np.isfinite(v))
    source = saved.newest(self._out)
    retries = self._position["retries"] + 1
    if source is None or retries > _MAX_RETRIES:
      raise errors.TrainingError(
        f"{bad} not finite; the last save, {source}, is untouched. Try a smaller"
        " learning rate in plan.py"
      )
    self._report(f"{bad} not finite: back to the last save, other squares")
    kept = ("seconds", "spent", "slices", "data", "classes")
    kept = {name: self._position[name] for name in kept}
    self._state = None
    self._resume(source)
    self._position |= kept | {"retries": retries}
    return self._train_stage(self._position["stage"])
