"""The training step of a stage, compiled for a TPU slice that is not there.

Shapes are all that compiling takes: no array is drawn, no data set opened. What
comes back is what XLA's compiler for TPUs plans: memory, work, messages.
"""

import dataclasses
import functools
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from egic_jax.losses import perceptual
from egic_jax.training import (
  chips,
  collectives,
  objectives,
  sharding,
  stages,
  steps,
  tpu_topology,
  trainer,
)
from egic_jax.training import networks as networks_lib
from egic_jax.training import state as state_lib

# For the compiler: least effort on the program's speed.
QUICK = {"exec_time_optimization_effort": -1.0}


@dataclasses.dataclass(frozen=True)
class Program:
  """A training step and the slice to compile it for.

  Attributes:
    config: the configuration; data.batch_size counts the whole slice's crops.
    stage: its stage.
    networks: the sizes.
    target: the slice.
    mesh: of the slice's chips.
  """

  config: ConfigDict
  stage: stages.Stage
  networks: networks_lib.Networks
  target: tpu_topology.Slice
  mesh: jax.sharding.Mesh


@dataclasses.dataclass(frozen=True)
class Memory:
  """What a program needs on one chip, in bytes.

  Attributes:
    arguments: state, batch and constants.
    outputs: state and scalars, of which...
    aliased: ...so much takes the place of arguments that are given up.
    temporaries: the most that is alive at a time within the step.
    code: the program itself.
  """

  arguments: int
  outputs: int
  aliased: int
  temporaries: int
  code: int

  @property
  def peak(self) -> int:
    """All together."""
    return (
      self.arguments
      + self.outputs
      - self.aliased
      + self.temporaries
      + self.code
    )


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What the compiler says of a step on a slice.

  Attributes:
    memory: per chip; None where the compiler gave up because it does not fit.
    needed_bytes: per chip, of the compiler's message if it gave up.
    flops: per chip and step.
    bytes_accessed: per chip and step.
    messages: collectives of one chip in a step.
    roofline: of the step; None if the compiler gave up.
    lower_seconds, compile_seconds: on this machine.
    compile_cpu_seconds: of all its cores together.
    compiler_options: other than the default ones.
  """

  memory: Memory | None
  needed_bytes: int
  flops: float
  bytes_accessed: float
  messages: tuple[collectives.Collective, ...]
  roofline: chips.Roofline | None
  lower_seconds: float
  compile_seconds: float
  compile_cpu_seconds: float
  compiler_options: dict[str, Any]


def prepare(
  config: ConfigDict,
  target: tpu_topology.Slice,
  *,
  num_classes: int | None = None,
) -> Program:
  """Checks a configuration against a slice; nothing is compiled yet.

  Args:
    config: with the keys of configs/base.py. Data and earlier stages' work
      directories may be missing: only shapes count.
    target: the slice.
    num_classes: classes of the data without void, for a discriminator; by
      default as far as the configuration alone tells.

  Returns:
    Program.

  Raises:
    ValueError: a value does not do, such as a batch that does not divide over
      the chips.
  """
  stage = stages.get_stage(config.train.stage)
  mesh = sharding.make_mesh(
    config.mesh.data, config.mesh.fsdp, list(target.devices)
  )
  trainer.check_parts(config, stage, mesh)
  codec_config = trainer.make_codec_config(config)
  discriminator_config = None
  if "discriminator" in stage.params:
    discriminator_config = trainer.make_discriminator_config(
      config, codec_config, num_classes=num_classes or known_classes(config)
    )
  networks = trainer.make_networks(
    config, mesh, codec_config, discriminator_config
  )
  return Program(config, stage, networks, target, mesh)


def known_classes(config: ConfigDict) -> int:
  """Classes without void of a configuration's data, without opening them."""
  if config.data.name == "coco":
    from egic_jax.data import panoptic

    return panoptic.NUM_CLASSES
  if config.data.name == "synthetic_scenes":
    from egic_jax.data import scenes

    return len(scenes.CLASSES) - 1
  from egic_jax.data import taxonomy

  classes = taxonomy.load(config.data.taxonomy).classes
  if not classes:
    raise ValueError(
      f"data.name={config.data.name}: the number of classes depends on the"
      " data; give it: --num-classes N"
    )
  return len(classes)


def lower(program: Program) -> jax.stages.Lowered:
  """The step that `trainer.train` would run, lowered for the slice."""
  config, stage, networks = program.config, program.stage, program.networks
  _, optimizers = trainer.make_optimizers(config, stage)
  weights = trainer.make_loss_weights(config, stage)
  step = steps.make_train_step(
    stage,
    losses=objectives.make_losses(networks, weights),
    optimizers=optimizers,
    accumulate=config.train.accumulate,
    ema_decay=config.train.ema_decay,
  )
  shapes = networks.param_shapes(stage.params)
  state = jax.eval_shape(
    functools.partial(
      state_lib.create,
      stage=stage,
      optimizers=optimizers,
      ema_decay=config.train.ema_decay,
    ),
    shapes,
    networks.spectral_shapes(shapes),
  )
  constants = {}
  if weights.lpips:
    # The released training has it, and shapes need no files of weights.
    constants["lpips"] = perceptual.param_shapes(weights.lpips_network)
  state = sharding.abstract_like(
    state,
    sharding.state_shardings(state, program.mesh, config.mesh.min_split_size),
  )
  return sharding.jit_step(step, state, program.mesh).lower(
    state,
    batch_shapes(config, stage),
    jax.eval_shape(lambda: jax.random.key(0)),
    constants,
  )


def batch_shapes(
  config: ConfigDict, stage: stages.Stage
) -> dict[str, jax.ShapeDtypeStruct]:
  """What the data pipeline yields for a step, of all processes together."""
  side = config.data.crop_size
  pixels = (config.data.batch_size, side, side)
  return {
    name: jax.ShapeDtypeStruct(
      (*pixels, 3) if name == "image" else pixels, jnp.uint8
    )
    for name in stage.inputs
  }


def measure(
  program: Program, compiler_options: dict[str, Any] | None = None
) -> Measurement:
  """Compiles the step for the slice: minutes at full size.

  Args:
    program: what `prepare` gives.
    compiler_options: for XLA, such as `QUICK`.

  Returns:
    Measurement; also if it does not fit.
  """
  options = dict(compiler_options or {})
  began = time.perf_counter()
  lowered = lower(program)
  lower_seconds = time.perf_counter() - began
  began, cpu_began = time.perf_counter(), time.process_time()
  compiled, needed = None, 0
  try:
    compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    needed = needed_bytes(str(error))
  times = {
    "lower_seconds": lower_seconds,
    "compile_seconds": time.perf_counter() - began,
    "compile_cpu_seconds": time.process_time() - cpu_began,
  }
  if compiled is None:
    return Measurement(
      None, needed, 0.0, 0.0, (), None, **times, compiler_options=options
    )
  memory = read_memory(compiled.memory_analysis())
  cost = compiled.cost_analysis()
  # XLA counts a loop's body once. The parts of a batch are one, and nearly all
  # of the work; only the optimiser is taken too often this way.
  rounds = program.config.train.accumulate
  flops = rounds * cost["flops"]
  accessed = rounds * cost["bytes accessed"]
  messages = tuple(collectives.parse(compiled.as_text(), program.mesh.size))
  return Measurement(
    memory=memory,
    needed_bytes=memory.peak,
    flops=flops,
    bytes_accessed=accessed,
    messages=messages,
    roofline=chips.roofline(
      program.target.chip,
      flops=flops,
      bytes_accessed=accessed,
      sent_bytes=sum(message.sent_bytes for message in messages),
    ),
    **times,
    compiler_options=options,
  )


def read_memory(stats: Any) -> Memory:
  """From `jax.stages.Compiled.memory_analysis`."""
  return Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    aliased=stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


_USED = re.compile(r"Used ([0-9.]+)([KMGT]?) of ([0-9.]+)([KMGT]?) hbm")


def needed_bytes(message: str) -> int:
  """Of the compiler's message that memory is exhausted; 0 if it has none."""
  found = _USED.search(message)
  if not found:
    return 0
  power = " KMGT".index(found.group(2) or " ")
  return round(float(found.group(1)) * 1024**power)
