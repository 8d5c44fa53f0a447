"""Many updates of a stage as one compiled program, pictures and all."""

import collections
import dataclasses
import hashlib
import pathlib
import pickle
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import plan
import squares
from jax.experimental import serialize_executable

from egic_jax import atomic_files, runtime, stored_program
from egic_jax.models import swin
from egic_jax.ops import gpu_kernel, kernel_trial
from egic_jax.training import networks as networks_lib
from egic_jax.training import objectives, optimizer, stages, steps
from egic_jax.training import state as state_lib


def make_networks(
  settings: plan.Settings, num_classes: int, platform: str | None = None
) -> networks_lib.Networks:
  """The networks of all stages.

  Args:
    settings: the size.
    num_classes: without void.
    platform: "gpu" for programs of one that is not here; None: that of JAX's
      devices, whose kernels are tried.
  """
  discriminator = dataclasses.replace(
    settings.discriminator,
    num_classes=num_classes,
    latent_channels=settings.codec.latent_channels,
  )
  if not platform:
    platform = jax.default_backend()
    if platform == "gpu":
      _try_kernels()
  return networks_lib.Networks(
    settings.codec,
    discriminator,
    swin.activation_dtype(platform, settings.dtype),
    swin.Execution.of_training(
      platform, gpu_kernel.ONE_DEVICE, False, settings.dtype
    ),
  )


def _try_kernels():
  for line in kernel_trial.leave_out_failing(gpu_kernel.KINDS):
    print(line, flush=True)


class _Factor(NamedTuple):
  """What the learning rate is multiplied by; set before each update."""

  factor: jax.Array


def _follow_progress() -> optax.GradientTransformation:
  return optax.GradientTransformation(
    init=lambda _: _Factor(jnp.ones(())),
    update=lambda updates, state, params=None: (
      jax.tree.map(lambda update: update * state.factor, updates),
      state,
    ),
  )


def _set_factor(opt_state, factor):
  return {
    name: (inner, _Factor(factor)) for name, (inner, _) in opt_state.items()
  }


def make_optimizers(
  stage: stages.Stage, stage_plan: plan.StagePlan
) -> dict[str, optax.GradientTransformation]:
  """Optimisers by name, the last of whose states is the factor of the rate."""
  optimizers = {}
  for update in stage.updates:
    # Only where two train against each other.
    against = update.optimizer == "discriminator" and len(stage.updates) > 1
    scale = stage_plan.discriminator_scale if against else 1.0
    schedule = optimizer.make_schedule(
      learning_rate=stage_plan.learning_rate * scale,
      final_learning_rate=0.0,
      final_fraction=0.0,
      warmup_steps=stage_plan.warmup_steps,
      steps=1,
    )
    made = optimizer.make_optimizer(
      kind=stage_plan.kind,
      schedule=schedule,
      b1=0.9,
      b2=0.999,
      clip_norm=stage_plan.clip_norm,
    )
    optimizers[update.optimizer] = optax.chain(made, _follow_progress())
  return optimizers


class StageProgram:
  """What a stage does to its state; compiled when it is first needed."""

  def __init__(
    self,
    name: str,
    settings: plan.Settings,
    networks: networks_lib.Networks,
    atlas: squares.Atlas,
    kept: pathlib.Path | None = None,
    platform: str | None = None,
  ):
    """Compiles nothing yet.

    Args:
      name: of the stage.
      settings: of all.
      networks: the networks.
      atlas: pictures to train on, in the device's memory.
      kept: folder of programs that `keep` compiled on another machine.
      platform: that it is to run on; None: that of JAX's devices.
    """
    self.stage = stages.get_stage(name)
    self.plan = settings.stages[name]
    self._settings = settings
    self._networks = networks
    self._atlas = atlas
    self.optimizers = make_optimizers(self.stage, self.plan)
    self._platform = platform or jax.default_backend()
    # A CPU runs what is in a loop on one core, seven times slower.
    self._loops = self._platform != "cpu"
    self._compiled = None
    # What was compiled for other plans or pictures must not be taken for it.
    identity = (settings, atlas.pixels.shape, self._platform, jax.__version__)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    self._kept = kept and kept / f"{name}_{digest}.program"

  @property
  def compiled(self) -> bool:
    """Whether `compile` was called."""
    return self._compiled is not None

  def batch(self, key: jax.Array, atlas: squares.Atlas) -> objectives.Batch:
    """A batch of random squares; pure."""
    return squares.draw(
      key,
      atlas,
      count=self.plan.batch_size,
      size=self._settings.crop_size,
      labelled=self.stage.needs_labels,
      augmentation=self.plan.augmentation,
    )

  def create(self, params: dict[str, Any], seed: int) -> state_lib.TrainState:
    """The state before the first update."""
    return state_lib.create(
      params,
      self._networks.init_spectral(params, seed),
      stage=self.stage,
      optimizers=self.optimizers,
      ema_decay=self.plan.ema_decay,
    )

  def state_shapes(self) -> state_lib.TrainState:
    """The shapes of `create`."""
    params = self._networks.param_shapes(self.stage.params)
    return jax.eval_shape(
      lambda params, spectral: state_lib.create(
        params,
        spectral,
        stage=self.stage,
        optimizers=self.optimizers,
        ema_decay=self.plan.ema_decay,
      ),
      params,
      self._networks.spectral_shapes(params),
    )

  def compile(self, state: state_lib.TrainState, key: jax.Array) -> float:
    """Loads or compiles what makes updates; the seconds that took.

    Args:
      state: one like those to come, or its shapes.
      key: a random key.
    """
    start = time.monotonic()
    if self._kept and self._kept.exists():
      self._compiled = serialize_executable.deserialize_and_load(
        *pickle.loads(self._kept.read_bytes())
      )
    else:
      lowered = self.lower(state, self._atlas, key)
      self._compiled = lowered.compile(_compiler_options(self._platform))
    return time.monotonic() - start

  def keep(self, lowered: jax.stages.Lowered) -> pathlib.Path:
    """Compiles for a machine that need not be here; where `compile` finds it.

    Args:
      lowered: of `lower`, for a device of that machine.
    """
    with stored_program.without_compilation_cache():
      compiled = lowered.compile(_compiler_options(self._platform))
    atomic_files.write_bytes(
      self._kept, pickle.dumps(serialize_executable.serialize(compiled))
    )
    return self._kept

  def lower(self, state, atlas, key, **options) -> jax.stages.Lowered:
    """The program of many updates.

    Args:
      state, atlas, key: arrays, or their shapes.
      **options: of jax.jit.
    """
    update = steps.make_train_step(
      self.stage,
      losses=objectives.make_losses(self._networks, self._settings.weights),
      optimizers=self.optimizers,
      ema_decay=self.plan.ema_decay,
    )

    def one(state, atlas, key, origin, slope):
      factor = plan.rate_factor(origin + slope * state.step, self.plan.hold)
      state = state.replace(opt_state=_set_factor(state.opt_state, factor))
      pictures, noise = jax.random.fold_in(key, 1), jax.random.fold_in(key, 0)
      batch = self.batch(jax.random.fold_in(pictures, state.step), atlas)
      return update(state, batch, noise, {})

    def many(state, atlas, key, count, origin, slope):
      _, shapes = jax.eval_shape(one, state, atlas, key, origin, slope)
      sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

      def add_one(_, carry):
        state, sums = carry
        state, metrics = one(state, atlas, key, origin, slope)
        return state, jax.tree.map(jnp.add, sums, metrics)

      state, sums = jax.lax.fori_loop(0, count, add_one, (state, sums))
      return state, jax.tree.map(lambda x: x / count, sums)

    count, *places = _scalars(1, 0.0, 0.0)
    options |= {"donate_argnums": 0}
    if self._loops:
      return jax.jit(many, **options).lower(state, atlas, key, count, *places)
    return jax.jit(one, **options).lower(state, atlas, key, *places)

  def __call__(
    self,
    state: state_lib.TrainState,
    key: jax.Array,
    *,
    count: int,
    origin: float,
    slope: float,
  ) -> tuple[state_lib.TrainState, dict[str, float]]:
    """Makes *count* updates.

    Args:
      state: given up.
      key: of all of the stage; each update folds its number in.
      count: updates.
      origin, slope: update number n is made at the part origin + slope * n of
        the stage.

    Returns:
      The state, and the means of what the losses report.
    """
    number, *places = _scalars(count, origin, slope)
    if self._loops:
      state, metrics = self._compiled(state, self._atlas, key, number, *places)
      return state, _to_floats(metrics)
    sums = collections.Counter()
    for _ in range(count):
      state, metrics = self._compiled(state, self._atlas, key, *places)
      sums.update(_to_floats(metrics))
    return state, {name: total / count for name, total in sums.items()}


def _compiler_options(platform):
  options = dict(runtime.COMPILER_OPTIONS.get(platform, {}))
  if platform == "gpu":
    # Muon and squares are thousands of small kernels; those that do not wait for each
    # other run side by side: 13.1 instead of 16.1 ms an update (H200, small, 16
    # squares, 2026-11-27). It takes more memory.
    options["xla_gpu_command_buffer_scheduling_mode"] = "CONCURRENT"
  return options


def _to_floats(metrics):
  return {k: float(v) for k, v in jax.device_get(metrics).items()}


def _scalars(count, origin, slope):
  return np.int32(count), np.float32(origin), np.float32(slope)
