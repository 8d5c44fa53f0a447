"""The training loop: everything that touches files, clocks and signals.

`train` unpacks a configuration; `run` gets explicit values and does the work.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from egic_jax.models import codec as codec_lib
from egic_jax.models import presets
from egic_jax.training import (
  checkpoints,
  errors,
  metrics_writer,
  optimizer,
  panels,
  progress,
  sharding,
  stages,
  steps,
  stop_signal,
)
from egic_jax.training import state as state_lib
from egic_jax.training import workdir as workdir_lib

Report = Callable[[str], None]

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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


def train(
  config: ConfigDict, workdir: str, *, report: Report | None = None
) -> Outcome:
  """Trains as *config* says, continuing what *workdir* has.

  Args:
    config: a configuration with the keys of configs/base.py.
    workdir: where config.json, checkpoints, event files and samples go.
    report: called with each line for the user; by default it is printed.

  Returns:
    Outcome.

  Raises:
    ValueError: a value of the configuration does not do, or the work directory
      holds another run.
    errors.TrainingError: the loss is not finite, a checkpoint cannot be
      written, or none can be read.
    OSError: the work directory cannot be made or written.
  """
  report = report or progress.print_line
  directory = pathlib.Path(workdir).expanduser().absolute()
  codec_config = presets.get_preset(config.model.preset)
  if config.model.compute_dtype not in _DTYPES:
    raise ValueError(
      f"model.compute_dtype={config.model.compute_dtype}: must be one of"
      f" {', '.join(_DTYPES)}"
    )
  stage = stages.get_stage(config.train.stage)
  schedule = optimizer.make_schedule(
    learning_rate=config.optimizer.learning_rate,
    final_learning_rate=config.optimizer.final_learning_rate,
    final_fraction=config.optimizer.final_fraction,
    warmup_steps=config.optimizer.warmup_steps,
    steps=config.train.steps,
  )
  optimizers = {
    update.optimizer: optimizer.make_optimizer(
      kind=config.optimizer.kind,
      schedule=schedule,
      b1=config.optimizer.b1,
      b2=config.optimizer.b2,
      clip_norm=config.optimizer.clip_norm,
    )
    for update in stage.updates
  }
  mesh = sharding.make_mesh(config.mesh.data)
  sharding.check_batch_size(config.data.batch_size, mesh)

  document = json.loads(config.to_json())
  document["model"]["codec"] = presets.config_to_dict(codec_config)
  workdir_lib.claim(directory, document, report=report)
  initial = None
  if config.train.init_from and not checkpoints.has_checkpoint(directory):
    initial = _initial_params(
      config.train.init_from, codec_config, stage, report
    )

  # Imported late: with the rest of the package no data library is needed.
  from egic_jax.data import pipeline

  report(f"opening the data set {config.data.name} ...")
  dataset = _prepare(pipeline, _dataset_spec(config, pipeline))
  drawn = {
    "global_batch_size": config.data.batch_size,
    "crop_size": config.data.crop_size,
    "seed": config.data.seed,
    "scale_range": tuple(config.data.scale_range),
    "scale_step": config.data.scale_step,
    "flip": config.data.flip,
    "max_side": config.data.max_side or None,
  }
  iterator = pipeline.make_train_iterator(
    dataset,
    **drawn,
    with_labels="label" in stage.inputs,
    shard_index=jax.process_index(),
    shard_count=jax.process_count(),
    num_threads=config.data.num_threads,
    prefetch=config.data.prefetch,
    cache_decoded=config.data.cache_decoded,
  )
  return run(
    directory,
    codec=codec_lib.Codec(codec_config, _DTYPES[config.model.compute_dtype]),
    stage=stage,
    distortion_weight=config.loss.distortion_weight,
    rate_weight=config.loss.rate_weight,
    optimizers=optimizers,
    schedule=schedule,
    mesh=mesh,
    iterator=iterator,
    dataset_identity=pipeline.dataset_identity(dataset, **drawn),
    samples=_sample_images(pipeline, dataset, config),
    num_steps=config.train.steps,
    log_every=config.train.log_every,
    checkpoint_every=config.train.checkpoint_every,
    sample_every=config.train.sample_every,
    keep=config.train.keep,
    seed=config.train.seed,
    initial_params=initial,
    hparams=dict(workdir_lib.flatten(document)),
    report=report,
  )


def run(
  workdir: pathlib.Path,
  *,
  codec: codec_lib.Codec,
  stage: stages.Stage,
  distortion_weight: float,
  rate_weight: float,
  optimizers: dict[str, Any],
  schedule: Callable[[int], Any],
  mesh: jax.sharding.Mesh,
  iterator: Iterator[dict[str, np.ndarray]],
  dataset_identity: str,
  samples: np.ndarray | None,
  num_steps: int,
  log_every: int,
  checkpoint_every: int,
  sample_every: int,
  keep: int,
  seed: int,
  report: Report,
  initial_params: dict[str, Any] | None = None,
  hparams: dict[str, Any] | None = None,
) -> Outcome:
  """Trains until *num_steps* updates are made, from the newest checkpoint on.

  Args:
    workdir: an existing directory.
    codec: the module; its parameters live in the state.
    stage: what to update.
    distortion_weight: weight of the squared error on 0..255.
    rate_weight: lambda, weight of the bits per pixel.
    optimizers: optimiser name > optax transformation.
    schedule: updates made > learning rate, to report it.
    mesh: the devices.
    iterator: a grain iterator over batches {"image": (b, S, S, 3) uint8, ...},
      b being this process's share.
    dataset_identity: what the iterator walks through; a checkpoint of other data is refused.
    samples: (N, S, S, 3) uint8, the same on every process; None for no panels.
    num_steps: updates in all, those of earlier runs included.
    log_every: updates between progress lines and scalars.
    checkpoint_every: updates between checkpoints; one is written at the end.
    sample_every: updates between sample panels.
    keep: checkpoints to keep.
    seed: of the initial parameters and the noise.
    report: called with each line for the user.
    initial_params: to start from, instead of random ones.
    hparams: shown in TensorBoard.

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
    losses={
      "rate_distortion": steps.rate_distortion_loss(
        codec, distortion_weight=distortion_weight, rate_weight=rate_weight
      )
    },
    optimizers=optimizers,
  )

  def create_state(params):
    return state_lib.create(params, stage=stage, optimizers=optimizers)

  everywhere = sharding.replicated(mesh)
  noise_key = jax.device_put(jax.random.key(seed), everywhere)
  abstract_state = sharding.abstract_like(
    jax.eval_shape(
      create_state, {"codec": codec_lib.param_shapes(codec.config)}
    ),
    everywhere,
  )
  saved = checkpoints.Checkpoints(
    workdir, keep=keep, dataset_identity=dataset_identity, report=report
  )
  with contextlib.closing(saved), contextlib.ExitStack() as stack:
    state = saved.restore_newest_good(abstract_state, iterator)
    if state is not None:
      report(f"continuing after step {int(state.step)}")
    else:
      params = initial_params or {
        "codec": codec_lib.init_codec_params(codec.config, seed)
      }
      state = jax.jit(create_state, out_shardings=everywhere)(params)
    step = first_step = int(state.step)
    if step >= num_steps:
      report(
        f"nothing to do: {step} of {num_steps} steps are made; raise"
        " train.steps to go on"
      )
      return Outcome(step, False, {})

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

    batch = _next_batch(iterator, stage, mesh)
    report("compiling the training step ...")
    start = time.perf_counter()
    compiled = _compile(step_fn, abstract_state, batch, noise_key, mesh)
    report(f"compiled in {time.perf_counter() - start:.1f} s")
    sampler = panels.Sampler(codec, samples, mesh, workdir / "samples", writer)

    means = metrics_writer.MeanMetrics()
    metrics: dict[str, float] = {}
    stop = stack.enter_context(stop_signal.StopSignal(report))
    clock = progress.Clock(first_step, num_steps)

    def settle():
      """Means so far, on the host; TrainingError unless all are finite."""
      values = means.compute()
      _check_finite(values, step, log_every, saved.latest_step())
      return values

    while True:
      state, scalars = compiled(state, batch, noise_key)
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
          | {"learning_rate": float(schedule(step - 1))}
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
      if (step % sample_every == 0 or done) and samples is not None:
        with clock.paused():
          report(sampler(step, state.params))
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


def _compile(step_fn, state, batch, key, mesh):
  """The training step as a compiled program; it cannot be traced anew."""
  everywhere = sharding.replicated(mesh)
  return (
    jax.jit(
      step_fn,
      in_shardings=(everywhere, sharding.split_batch(mesh), everywhere),
      out_shardings=everywhere,
      donate_argnums=0,
    )
    .lower(state, batch, key)
    .compile()
  )


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


def _device_memory() -> dict[str, float]:
  statistics = jax.local_devices()[0].memory_stats()
  if not statistics or "peak_bytes_in_use" not in statistics:
    return {}  # The CPU backend does not tell.
  return {"device_memory_peak_gib": statistics["peak_bytes_in_use"] / 2**30}


def _initial_params(workdir, codec_config, stage, report):
  found_config, params, step = checkpoints.load_parameters(
    workdir, report=report
  )
  expected = presets.config_to_dict(codec_config)
  found = presets.config_to_dict(found_config)
  names = sorted(name for name in expected if expected[name] != found[name])
  if names:
    raise ValueError(
      f"train.init_from={workdir}: its model differs from model.preset in"
      f" {', '.join(names)}"
    )
  if missing := [name for name in stage.params if name not in params]:
    raise ValueError(
      f"train.init_from={workdir}: has no parameters of {', '.join(missing)}"
    )
  report(f"starting from step {step} of {workdir}")
  return {name: params[name] for name in stage.params}


def _dataset_spec(config: ConfigDict, pipeline: Any) -> Any:
  return pipeline.DatasetSpec(
    name=config.data.name,
    config=config.data.config,
    data_dir=config.data.data_dir or None,
    folder=config.data.folder or None,
    sets=tuple(config.data.sets),
    exclude=tuple(config.data.exclude),
    taxonomy=config.data.taxonomy,
    validation_fraction=config.data.validation_fraction,
  )


def _prepare(pipeline: Any, spec: Any) -> Any:
  # The first process builds, the others find it built (on a shared disk).
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    if jax.process_index() == 0:
      pipeline.prepare(spec)
    multihost_utils.sync_global_devices("data set built")
  return pipeline.prepare(spec)


def _sample_images(
  pipeline: Any, dataset: Any, config: ConfigDict
) -> np.ndarray | None:
  if not config.train.num_samples:
    return None
  # Unsharded: every process sees the same pictures.
  batches = pipeline.make_eval_batches(
    dataset,
    global_batch_size=config.train.num_samples,
    crop_size=config.data.crop_size,
    max_images=config.train.num_samples,
    max_side=config.data.max_side or None,
    with_labels=False,
  )
  batch = next(iter(batches))
  return batch["image"][batch["valid"]]
