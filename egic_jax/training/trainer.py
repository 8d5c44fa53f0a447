"""From a configuration to a run: unpacks every key and opens what it names."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from egic_jax.interop import lpips_weights
from egic_jax.models import presets, swin
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.ops import gpu_kernel, kernel_trial
from egic_jax.training import (
  checkpoints,
  initial,
  loop,
  objectives,
  optimizer,
  processes,
  progress,
  sharding,
  stages,
  validation,
)
from egic_jax.training import networks as networks_lib
from egic_jax.training import workdir as workdir_lib

Report = Callable[[str], None]

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def train(
  config: ConfigDict, workdir: str, *, report: Report | None = None
) -> loop.Outcome:
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
  if "://" in workdir:
    raise ValueError(
      f"--workdir={workdir}: must be a directory; mount the bucket and name the"
      " mount"
    )
  directory = pathlib.Path(workdir).expanduser().absolute()
  codec_config = make_codec_config(config)
  stage = stages.get_stage(config.train.stage)
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  _try_kernels(mesh, report)
  is_split = mesh.shape[sharding.FSDP] > 1
  schedules, optimizers = make_optimizers(
    config, stage, None if is_split else gpu_kernel.Devices.of(mesh)
  )
  check_parts(config, stage, mesh)
  weights, lpips = _loss_weights(config, stage, report)

  sources = {
    "init_from": config.train.init_from,
    "init_discriminator": config.train.init_discriminator,
  }
  initial.check_keys(stage, **sources)
  document = json.loads(config.to_json())
  if "codec" in stage.params:
    document["model"]["codec"] = presets.config_to_dict(codec_config)
  # What will not do is told before the data set is opened.
  workdir_lib.check(directory, document)
  given: dict[str, Any] = {}
  is_new = not checkpoints.has_checkpoint(directory)
  if is_new and config.train.init_from:
    given["codec"] = initial.load_codec(
      config.train.init_from, codec_config, report
    )
  if is_new and config.train.init_discriminator:
    initial.check_discriminator(config.train.init_discriminator)

  # Imported late: with the rest of the package no data library is needed.
  from egic_jax.data import pipeline

  report(f"opening the data set {config.data.name} ...")
  dataset = _prepare(pipeline, _dataset_spec(config, pipeline))
  discriminator_config, only_segmented = None, False
  if "discriminator" in stage.params:
    discriminator_config = make_discriminator_config(
      config,
      codec_config,
      # Without void.
      num_classes=len(pipeline.class_names(dataset)) - 1,
    )
    document["model"]["discriminator"] = discriminator_presets.config_to_dict(
      discriminator_config
    )
    if is_new and config.train.init_discriminator:
      given["discriminator"], only_segmented = initial.load_discriminator(
        config.train.init_discriminator, discriminator_config, report
      )
  workdir_lib.claim(directory, document, report=report)

  networks = make_networks(config, mesh, codec_config, discriminator_config)
  drawn = {
    "global_batch_size": config.data.batch_size,
    "crop_size": config.data.crop_size,
    "seed": config.data.seed,
    "scale_range": tuple(config.data.scale_range),
    "scale_step": config.data.scale_step,
    "flip": config.data.flip,
    "padding": config.data.padding,
    "max_side": config.data.max_side or None,
    "enlarge": config.data.enlarge,
    "color_policy": config.data.color_policy,
    "labelled_only": stage.needs_labels,
  }
  share = {
    "shard_index": jax.process_index(),
    "shard_count": jax.process_count(),
  }
  identity = pipeline.dataset_identity(dataset, **drawn)
  processes.check_same("data", identity)
  iterator = pipeline.make_train_iterator(
    dataset,
    **drawn,
    **share,
    with_labels="label" in stage.inputs,
    with_weights="weight" in stage.inputs,
    num_threads=config.data.num_threads,
    num_workers=config.data.num_workers,
    prefetch=config.data.prefetch,
    cache_decoded=config.data.cache_decoded,
  )
  validator = None
  if stage.validation and config.train.validate_every:
    validator = validation.SegmentationValidator(
      networks,
      pipeline.make_eval_batches(
        dataset,
        **_evaluated(config, stage),
        **share,
        global_batch_size=config.data.batch_size,
        max_images=config.train.num_validation or None,
      ),
      mesh,
    )
  # Its worker processes, if there are any, end with the training.
  with contextlib.closing(iterator):
    return loop.run(
      directory,
      networks=networks,
      stage=stage,
      losses=objectives.make_losses(networks, weights),
      constants={"lpips": lpips} if lpips else {},
      optimizers=optimizers,
      schedules=schedules,
      accumulate=config.train.accumulate,
      ema_decay=config.train.ema_decay,
      mesh=mesh,
      min_split_size=config.mesh.min_split_size,
      iterator=iterator,
      dataset_identity=identity,
      samples=_samples(pipeline, dataset, config, stage),
      validator=validator,
      num_steps=config.train.steps,
      log_every=config.train.log_every,
      checkpoint_every=config.train.checkpoint_every,
      sample_every=config.train.sample_every,
      validate_every=config.train.validate_every,
      keep=config.train.keep,
      seed=config.train.seed,
      start=initial.Start(given, only_segmented),
      hparams=dict(workdir_lib.flatten(document)),
      report=report,
    )


def _try_kernels(mesh, report):
  """Before anything that may use them is made."""
  if mesh.devices.flat[0].platform != "gpu":
    return
  for line in kernel_trial.leave_out_failing(
    gpu_kernel.KINDS, processes.all_agree
  ):
    report(line)


def make_networks(
  config: ConfigDict,
  mesh: jax.sharding.Mesh,
  codec_config: presets.CodecConfig,
  discriminator_config: discriminator_presets.DiscriminatorConfig | None,
) -> networks_lib.Networks:
  """The networks, computed as these devices do it best."""
  platform = mesh.devices.flat[0].platform
  dtype = compute_dtype(config)
  return networks_lib.Networks(
    codec_config,
    discriminator_config,
    swin.activation_dtype(platform, dtype),
    swin.Execution.of_training(
      platform, gpu_kernel.Devices.of(mesh), config.train.remat, dtype
    ),
  )


def make_optimizers(
  config: ConfigDict,
  stage: stages.Stage,
  kernels: gpu_kernel.Devices | None = None,
) -> tuple[dict[str, Callable[[int], Any]], dict[str, Any]]:
  """Learning rates, as functions of the updates made, and optimisers by name.

  `kernels` is as in `optimizer.make_optimizer`.
  """

  def make_schedule(scale):
    return optimizer.make_schedule(
      learning_rate=config.optimizer.learning_rate * scale,
      final_learning_rate=config.optimizer.final_learning_rate * scale,
      final_fraction=config.optimizer.final_fraction,
      warmup_steps=config.optimizer.warmup_steps,
      decay=config.optimizer.decay,
      steps=config.train.steps,
    )

  schedules, optimizers = {}, {}
  for update in stage.updates:
    # Only where two optimisers train against each other.
    against = update.optimizer == "discriminator" and len(stage.updates) > 1
    scale = config.optimizer.discriminator_scale if against else 1.0
    schedules[update.optimizer] = make_schedule(scale)
    optimizers[update.optimizer] = optimizer.make_optimizer(
      kind=config.optimizer.kind,
      schedule=schedules[update.optimizer],
      b1=config.optimizer.b1,
      b2=config.optimizer.b2,
      clip_norm=config.optimizer.clip_norm,
      kernels=kernels,
    )
  return schedules, optimizers


def make_codec_config(config: ConfigDict) -> presets.CodecConfig:
  """The codec's size; ValueError for one that there is not."""
  size = presets.get_preset(config.model.preset)
  try:
    return dataclasses.replace(size, rate_levels=config.model.rate_levels)
  except ValueError as error:
    raise ValueError(f"model.{error}") from None


def make_discriminator_config(
  config: ConfigDict, codec_config: presets.CodecConfig, *, num_classes: int
) -> discriminator_presets.DiscriminatorConfig:
  """The discriminator's size, for these data and this codec."""
  try:
    size = discriminator_presets.get_preset(
      config.model.discriminator_preset,
      num_classes=num_classes,
      latent_channels=codec_config.latent_channels,
      normalization=config.model.normalization,
      conditioning=config.model.conditioning,
    )
  except ValueError as error:
    raise ValueError(f"model: {error}") from None
  if config.data.crop_size % size.stride:
    raise ValueError(
      f"data.crop_size={config.data.crop_size}: must be a multiple of"
      f" {size.stride} for the discriminator"
      f" {config.model.discriminator_preset}"
    )
  return size


def compute_dtype(config: ConfigDict) -> Any:
  """The type to compute in; ValueError for another than the two."""
  if config.model.compute_dtype not in _DTYPES:
    raise ValueError(
      f"model.compute_dtype={config.model.compute_dtype}: must be one of"
      f" {', '.join(_DTYPES)}"
    )
  return _DTYPES[config.model.compute_dtype]


def check_parts(
  config: ConfigDict, stage: stages.Stage, mesh: jax.sharding.Mesh
) -> None:
  """ValueError unless batch, averages, parts and type of numbers will do."""
  compute_dtype(config)
  if config.train.accumulate < 1:
    raise ValueError(
      f"train.accumulate={config.train.accumulate}: must be at least 1"
    )
  if not 0 <= config.train.ema_decay < 1:
    raise ValueError(
      f"train.ema_decay={config.train.ema_decay}: must lie in [0, 1); 0 is none"
    )
  if config.train.ema_decay and not stage.averaged_groups:
    raise ValueError(
      f"train.ema_decay={config.train.ema_decay}: {stage.name} trains nothing"
      " to average; set it to 0"
    )
  sharding.check_batch_size(
    config.data.batch_size, mesh, stage.portions * config.train.accumulate
  )


def make_loss_weights(
  config: ConfigDict, stage: stages.Stage
) -> objectives.LossWeights:
  """The weights of a stage's terms; with LPIPS if its files were given."""
  loss = config.loss
  return objectives.LossWeights(
    distortion=loss.distortion_weight,
    distortion_range=tuple(loss.distortion_range),
    rate=loss.rate_weight,
    lpips=loss.lpips_weight if stage.lpips != "none" else 0.0,
    lpips_network=loss.lpips_network,
    adversarial=loss.adversarial_weight,
    labelmix=loss.labelmix_weight,
    pixel_weights=loss.pixel_weights,
  )


def _loss_weights(
  config: ConfigDict, stage: stages.Stage, report: Report
) -> tuple[objectives.LossWeights, dict[str, Any]]:
  """The weights of the terms, and LPIPS's own; {} for a training without."""
  loss = config.loss
  weights = make_loss_weights(config, stage)
  if not weights.lpips:
    return weights, {}
  if not loss.lpips_files:
    if stage.lpips == "required":
      raise ValueError(
        f"loss.lpips_files is empty and train.stage={stage.name} needs LPIPS:"
        f" {lpips_weights.how_to_get(loss.lpips_network)}"
        " (loss.lpips_weight=0)"
      )
    report("LPIPS: loss.lpips_files is empty, so this trains without")
    return dataclasses.replace(weights, lpips=0.0), {}
  loaded = lpips_weights.load(
    list(loss.lpips_files), loss.lpips_network, _digests(loss)
  )
  report(loaded.describe())
  return weights, loaded.params


def _digests(loss: ConfigDict) -> dict[str, str]:
  if not loss.lpips_sha256:
    return {}
  if len(loss.lpips_sha256) != len(loss.lpips_files):
    raise ValueError(
      f"loss.lpips_sha256: {len(loss.lpips_sha256)} digests for"
      f" {len(loss.lpips_files)} loss.lpips_files; give one a file, or none"
    )
  names = [pathlib.Path(path).name for path in loss.lpips_files]
  return dict(zip(names, loss.lpips_sha256, strict=True))


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
  return processes.first_then_others(lambda: pipeline.prepare(spec))


def _evaluated(config: ConfigDict, stage: stages.Stage) -> dict[str, Any]:
  """Arguments of make_eval_batches."""
  return {
    "crop_size": config.data.crop_size,
    "padding": config.data.padding,
    "max_side": config.data.max_side or None,
    "enlarge": config.data.enlarge,
    "with_labels": stage.needs_labels,
    "labelled_only": stage.needs_labels,
  }


def _samples(
  pipeline: Any, dataset: Any, config: ConfigDict, stage: stages.Stage
) -> dict[str, np.ndarray] | None:
  if not config.train.num_samples:
    return None
  # Unsharded: every process sees the same pictures.
  batches = pipeline.make_eval_batches(
    dataset,
    **_evaluated(config, stage),
    global_batch_size=config.train.num_samples,
    max_images=config.train.num_samples,
  )
  batch = dict(next(iter(batches)))
  valid = batch.pop("valid")
  return {name: array[valid] for name, array in batch.items()}
