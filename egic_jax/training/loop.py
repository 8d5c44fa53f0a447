"""The training loop: everything that touches files, clocks and signals.

`trainer.train` unpacks a configuration; `run` gets explicit values.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from egic_jax import allocator, runtime
from egic_jax.training import (
  checkpoints,
  errors,
  initial,
  metrics_writer,
  objectives,
  panels,
  progress,
  sharding,
  stages,
  steps,
  stop_signal,
  views,
)
from egic_jax.training import networks as networks_lib
from egic_jax.training import state as state_lib

Report = Callable[[str], None]

# Seconds; some thousand times what it takes.
_MOMENT = 0.001


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a run ended.

  Attributes:
    step: updates made, all of them in a checkpoint.
    interrupted: whether a signal ended it before its last step.
    metrics: the means of the last logging interval; empty if nothing was run.
  """

  step: int
  interrupted: bool
  metrics: dict[str, float]


def run(
  workdir: pathlib.Path,
  *,
  networks: networks_lib.Networks,
  stage: stages.Stage,
  losses: dict[str, objectives.Loss],
  optimizers: dict[str, Any],
  schedules: dict[str, Callable[[int], Any]],
  mesh: jax.sharding.Mesh,
  iterator: Iterator[dict[str, np.ndarray]],
  dataset_identity: str,
  samples: dict[str, np.ndarray] | None,
  num_steps: int,
  log_every: int,
  checkpoint_every: int,
  sample_every: int,
  keep: int,
  seed: int,
  report: Report,
  start: initial.Start | None = None,
  constants: dict[str, Any] | None = None,
  accumulate: int = 1,
  ema_decay: float = 0.0,
  validator: Callable[[networks_lib.Variables], dict[str, float]] | None = None,
  validate_every: int = 0,
  hparams: dict[str, Any] | None = None,
  min_split_size: int = sharding.MIN_SPLIT_SIZE,
) -> Outcome:
  """Trains until *num_steps* updates are made, from the newest checkpoint on.

  Args:
    workdir: an existing directory.
    networks: sizes of the networks; their parameters live in the state.
    stage: what to update.
    losses: loss name > function, for each name in the stage's updates.
    optimizers: optimiser name > optax transformation.
    schedules: optimiser name > function of the updates made to the learning
      rate, to report it.
    mesh: the devices.
    iterator: a grain iterator over batches {"image": (b, S, S, 3) uint8, ...},
      b being this process's share.
    dataset_identity: what the iterator walks through; a checkpoint of other
      data is refused.
    samples: {"image": (N, S, S, 3) uint8, ...}, the same on every process, for
      the stage's view; None for no panels.
    num_steps: updates in all, those of earlier runs included.
    log_every: updates between progress lines and scalars.
    checkpoint_every: updates between checkpoints; one is written at the end.
    sample_every: updates between sample panels.
    keep: checkpoints to keep.
    seed: of the initial parameters and the noise.
    report: called with each line for the user.
    start: parameters to start from, instead of random ones.
    constants: variables that nothing trains: {} or {"lpips": weights}.
    accumulate: see `steps.make_train_step`.
    ema_decay: likewise.
    validator: gives scalars of the variables.
    validate_every: updates between its calls; it is called at the end, too. 0
      for never.
    hparams: shown in TensorBoard.
    min_split_size: see `sharding.state_shardings`.

  Returns:
    Outcome.

  Raises:
    ValueError: an interval is not positive, or the checkpoint does not fit.
    errors.TrainingError: the loss is not finite, or storage fails.
  """
  for name, value in (
    ("steps", num_steps),
    ("log_every", log_every),
    ("checkpoint_every", checkpoint_every),
    ("sample_every", sample_every),
  ):
    if value < 1:
      raise ValueError(f"train.{name}={value}: must be at least 1")
  step_fn = steps.make_train_step(
    stage,
    losses=losses,
    optimizers=optimizers,
    accumulate=accumulate,
    ema_decay=ema_decay,
  )
  create_state = functools.partial(
    state_lib.create, stage=stage, optimizers=optimizers, ema_decay=ema_decay
  )
  everywhere = sharding.replicated(mesh)
  # Not device_put, which reaches this process's devices only.
  noise_key = jax.jit(lambda: jax.random.key(seed), out_shardings=everywhere)()
  shapes = networks.param_shapes(stage.params)
  abstract_state = jax.eval_shape(
    create_state, shapes, networks.spectral_shapes(shapes)
  )
  state_shardings = sharding.state_shardings(
    abstract_state, mesh, min_split_size
  )
  abstract_state = sharding.abstract_like(abstract_state, state_shardings)
  saved = checkpoints.Checkpoints(
    workdir, keep=keep, dataset_identity=dataset_identity, report=report
  )
  with contextlib.closing(saved), contextlib.ExitStack() as stack:
    state = saved.restore_newest_good(abstract_state, iterator)
    step = first_step = int(state.step) if state is not None else 0
    if state is not None:
      report(f"continuing after step {step}")
    if step >= num_steps:
      report(
        f"nothing to do: {step} of {num_steps} steps are made; raise"
        " train.steps to go on"
      )
      return Outcome(step, False, {})

    batch = _next_batch(iterator, stage, mesh)
    if state is None:
      params = initial.complete(
        start or initial.Start(),
        stage,
        networks,
        seed=seed,
        batch=batch,
        mesh=mesh,
      )
      state = jax.jit(create_state, out_shardings=state_shardings)(
        params, networks.init_spectral(params, seed)
      )

    writer = metrics_writer.make_writer(workdir / "tensorboard")
    stack.callback(writer.close)
    writer.write_hparams(hparams or {})
    table = metrics_writer.parameter_table(state.params)
    writer.write_texts(step, {"parameters": f"```\n{table}\n```"})
    report(
      f"{metrics_writer.parameter_count(state.params):,} parameters,"
      f" {mesh.size} {jax.devices()[0].platform} device(s),"
      f" {jax.process_count()} process(es)"
    )
    if mesh.shape[sharding.FSDP] > 1:
      report(
        f"state split over groups of {mesh.shape[sharding.FSDP]} devices:"
        f" {sharding.bytes_per_device(state) / 2**20:.1f} MiB on each of"
        f" {sharding.bytes_in_all(state) / 2**20:.1f} MiB"
      )

    constants = sharding.on_every_device(constants or {}, mesh)
    report("compiling the training step ...")
    began = time.perf_counter()
    compiled = _compile(
      step_fn, abstract_state, batch, noise_key, constants, mesh
    )
    allocator.set_crumbs_aside()
    report(f"compiled in {time.perf_counter() - began:.1f} s")
    sampler = None
    if samples is not None:
      view = views.make_views(networks)[stage.view]
      sampler = allocator.first_call_compiles(
        panels.Sampler(view, samples, mesh, workdir / "samples", writer)
      )
    if validator is not None:
      validator = allocator.first_call_compiles(validator)

    means = metrics_writer.MeanMetrics()
    metrics: dict[str, float] = {}
    stop = stack.enter_context(stop_signal.StopSignal(report))
    clock = progress.Clock(first_step, num_steps)

    def settle():
      """Means so far, on the host; TrainingError unless all are finite."""
      values = means.compute()
      _check_finite(values, step, log_every, saved.latest_step())
      return values

    on_cpu = _on_cpu(mesh)
    while True:
      if on_cpu:
        _wait_for_memory(state)
      state, scalars = compiled(state, batch, noise_key, constants)
      means.add(scalars)
      step += 1
      done = step == num_steps
      stopping = _stopping(stop, saved, step)
      if step % log_every == 0 or done or stopping:
        metrics = settle()
        report(clock.progress(step, metrics))
        writer.write_scalars(
          step,
          metrics
          | _learning_rates(schedules, step)
          | {"steps_per_second": clock.steps_per_second}
          | _device_memory(),
        )
      if step % checkpoint_every == 0 or done or stopping:
        # A log interval may straddle the checkpoint; what it has so far must
        # be finite, or the newest checkpoint would be the broken one.
        _check_finite(scalars, step, log_every, saved.latest_step())
        with clock.paused():
          saved.save(state, iterator)
          writer.flush()
      if sampler and (step % sample_every == 0 or done):
        with clock.paused():
          report(sampler(step, state.variables))
      if validator and validate_every and (step % validate_every == 0 or done):
        with clock.paused():
          scores = validator(state.variables)
        writer.write_scalars(
          step, {f"validation_{name}": x for name, x in scores.items()}
        )
        metrics = metrics | scores
        shown = "  ".join(f"{name} {x:.4f}" for name, x in scores.items())
        report(f"validation: {shown}")
      if done or stopping:
        break
      batch = _next_batch(iterator, stage, mesh)

    saved.wait()
    if stopping and not done:
      report(
        f"interrupted: saved step {step} of {num_steps}; the same command"
        " continues from there"
      )
    else:
      report(f"done: {num_steps} steps, saved in {workdir}")
    return Outcome(step, stopping and not done, metrics)


def _compile(step_fn, state, batch, key, constants, mesh):
  """The training step as a compiled program; it cannot be traced anew."""
  options = runtime.COMPILER_OPTIONS.get(mesh.devices.flat[0].platform)
  with allocator.compiling():
    jitted = sharding.jit_step(step_fn, state, mesh)
    lowered = jitted.lower(state, batch, key, constants)
    return lowered.compile(compiler_options=options)


def _on_cpu(mesh) -> bool:
  return mesh.devices.flat[0].platform == "cpu"


def _wait_for_memory(state) -> None:
  """Returns when the step before this one has given its temporaries back.

  A CPU's take memory at once when they are dispatched: two at a time would hold
  twice the memory and, as it then lies in pieces, more in later steps. They
  give it back a moment after their results are there.
  """
  jax.block_until_ready(state)
  time.sleep(_MOMENT)


def _stopping(
  stop: stop_signal.StopSignal, saved: checkpoints.Checkpoints, step: int
) -> bool:
  if jax.distributed.is_initialized():
    return saved.reached_preemption(step)
  return stop.received


def _next_batch(iterator, stage, mesh):
  batch = next(iterator)
  return sharding.global_batch({k: batch[k] for k in stage.inputs}, mesh)


def _check_finite(
  metrics: dict[str, Any], step: int, log_every: int, saved: int | None
) -> None:
  bad = [name for name, value in metrics.items() if not np.isfinite(value)]
  if not bad:
    return
  kept = (
    f"the checkpoint of step {saved} is untouched"
    if saved is not None
    else "there is no checkpoint yet"
  )
  raise errors.TrainingError(
    f"{', '.join(sorted(bad))} not finite within the {log_every} steps up to"
    f" {step}; {kept}. Try a smaller optimizer.learning_rate,"
    " optimizer.clip_norm=1, a longer optimizer.warmup_steps, or"
    " model.compute_dtype=float32"
  )


def _learning_rates(schedules, step):
  """Those that update number *step* was made with, as scalars by name."""
  return {
    # Named like the norms of the gradients.
    f"{name}_learning_rate" if len(schedules) > 1 else "learning_rate": float(
      schedule(step - 1)
    )
    for name, schedule in schedules.items()
  }


def _device_memory() -> dict[str, float]:
  statistics = jax.local_devices()[0].memory_stats()
  if not statistics or "peak_bytes_in_use" not in statistics:
    return {}  # The CPU backend does not tell.
  return {"device_memory_peak_gib": statistics["peak_bytes_in_use"] / 2**30}
