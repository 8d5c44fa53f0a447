"""The parameters that a stage starts from: an earlier stage's, or new ones."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from egic_jax.models import codec as codec_lib
from egic_jax.models import initialization, presets
from egic_jax.models import orp as orp_lib
from egic_jax.models.discriminators import oasis_c
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import networks as networks_lib
from egic_jax.training import objectives, sharding, stages

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Start:
  """What earlier runs give.

  Attributes:
    params: top-level groups of the parameter tree, numpy arrays.
    only_segmented: the discriminator never saw a latent, nor a fake pixel.
  """

  params: dict[str, Any] = dataclasses.field(default_factory=dict)
  only_segmented: bool = False


def check_keys(
  stage: stages.Stage, *, init_from: str, init_discriminator: str
) -> None:
  """ValueError for a work directory that is missing or of no use."""
  if stage.starts_from and not init_from:
    raise ValueError(
      f"train.init_from is empty: {stage.name} starts from a trained"
      f" {' and '.join(stage.starts_from)}; give the work directory of the"
      " stage before, or a model file"
    )
  if init_from and "codec" not in stage.params:
    raise ValueError(
      f"train.init_from={init_from}: {stage.name} has no codec to start from"
      " it; for the discriminator use train.init_discriminator"
    )
  if init_discriminator and "discriminator" not in stage.params:
    raise ValueError(
      f"train.init_discriminator={init_discriminator}: {stage.name} has no"
      " discriminator; leave it empty"
    )


def load_codec(
  source: str, config: presets.CodecConfig, report: Report
) -> dict[str, Any]:
  """The codec's parameters of train.init_from; ValueError names a mismatch.

  Args:
    source: a work directory, or a model file as `egic export` and
      `egic import-official` write it.
    config: the size that is wanted. One with levels of quality may start from
      a codec of one rate, which becomes the middle of them.
    report: told where the parameters come from.
  """
  if os.path.isfile(source):
    # Only here: training needs nothing else of the bitstream.
    from egic_jax.bitstream import model_file

    model = model_file.load_model(source)
    found, params = model.config, model.params
    where = f"model {model.fingerprint.hex()}, {source}"
  else:
    # Only here: who brings parameters of their own needs no Orbax.
    from egic_jax.training import checkpoints

    found, params, step = checkpoints.load_parameters(source, report=report)
    where = f"step {step} of {source}"
  gains_are_new = bool(config.rate_levels) and not found.rate_levels
  if gains_are_new:
    found = dataclasses.replace(found, rate_levels=config.rate_levels)
  _check_same(
    f"train.init_from={source}: its codec differs from this one in",
    dataclasses.asdict(config),
    dataclasses.asdict(found),
  )
  report(f"codec: starting from {where}")
  codec = params["codec"]
  if gains_are_new:
    report(f"codec: one rate so far; gains for {config.rate_levels} are new")
    shapes = {"rate": codec_lib.param_shapes(config)["rate"]}
    codec = codec | initialization.draw(shapes, seed=0)
  return codec


def check_discriminator(source: str) -> None:
  """ValueError or OSError, in one line, for what can hold no discriminator."""
  from egic_jax.training import checkpoints, discriminator_file

  if os.path.isfile(source):
    discriminator_file.load(source)
  else:
    checkpoints.read_config(source)


def load_discriminator(
  source: str,
  config: discriminator_presets.DiscriminatorConfig,
  report: Report,
) -> tuple[dict[str, Any], bool]:
  """The parameters of train.init_discriminator; ValueError names a mismatch.

  Args:
    source: a work directory, or a file of `egic import-official`.
    config: the size that is wanted.
    report: told where the parameters come from.

  Returns:
    The parameters, and whether they are those of a plain segmentation network,
    which saw neither a latent nor a fake pixel.
  """
  from egic_jax.training import checkpoints, discriminator_file

  if os.path.isfile(source):
    found, params, origin = discriminator_file.load(source)
    where, only_segmented = f"{source} ({origin})", False
  else:
    found, params, step = checkpoints.load_discriminator(source, report=report)
    where = f"step {step} of {source}"
    stage = checkpoints.read_config(source)["train"]["stage"]
    only_segmented = "codec" not in stages.get_stage(stage).params
  _check_same(
    f"train.init_discriminator={source}: its discriminator differs from this"
    " one in",
    discriminator_presets.config_to_dict(config),
    discriminator_presets.config_to_dict(found),
  )
  report(f"discriminator: starting from {where}")
  return params, only_segmented


def _check_same(what, expected, found):
  differing = [
    f"{name} ({found[name]}, here {expected[name]})"
    for name in sorted(expected)
    if expected[name] != found[name]
  ]
  if differing:
    raise ValueError(f"{what} {', '.join(differing)}")


def complete(
  start: Start,
  stage: stages.Stage,
  networks: networks_lib.Networks,
  *,
  seed: int,
  batch: dict[str, jax.Array],
  mesh: jax.sharding.Mesh,
) -> dict[str, Any]:
  """All parameters of a stage: those given, and new ones for the others.

  The head of ORP is a copy of g_s's last stage; weight norm of a new
  discriminator is initialised from *batch*. One that has only segmented goes on
  computing what it learned: its embedding starts silent, "fake" level with the
  classes.

  Args:
    start: what there is.
    stage: whose groups are wanted.
    networks: the sizes.
    seed: of parameters that are drawn.
    batch: on the mesh; the stage's first one.
    mesh: the devices.

  Returns:
    The parameter tree, arrays of the host or replicated over the mesh.
  """
  params = {
    group: start.params[group]
    for group in stage.params
    if group in start.params
  }
  if "codec" in stage.params and "codec" not in params:
    params["codec"] = codec_lib.init_codec_params(networks.codec_config, seed)
  if "orp" in stage.params and "orp" not in params:
    params["orp"] = jax.tree.map(
      np.array, orp_lib.init_from_synthesis(params["codec"])
    )
  if "discriminator" not in stage.params:
    return params
  config = networks.discriminator_config
  is_new = "discriminator" not in params
  if is_new:
    params["discriminator"] = oasis_c.init_params(config, seed)
  if is_new and config.normalization == "weight":
    params["discriminator"] = _calibrate(networks, params, batch, mesh)
  if start.only_segmented:
    params["discriminator"] = _silence_embedding(
      params["discriminator"], config.normalization
    ) | {"logits": _level_fake(networks, params, batch, mesh, seed)}
  return params


def _silence_embedding(discriminator, normalization):
  """The discriminator's parameters, its new layer giving zeros at first.

  So that it computes what it was trained to. With outputs of unit variance, a
  random map on all logits would make nine tenths of LabelMix, and the descent
  from there undoes what was learned of the classes (experiments/orp_alpha).
  """
  if "embedding" not in discriminator or normalization == "spectral":
    return discriminator  # A kernel of zeros has no spectral norm.
  layer = dict(discriminator["embedding"])
  for name in ("scale" if normalization == "weight" else "kernel", "bias"):
    layer[name] = np.zeros_like(layer[name])
  return discriminator | {"embedding": layer}


def _calibrate(networks, params, batch, mesh):
  def calibrate(params, image):
    image = objectives.to_float(image)
    latent = None
    if "codec" in params:
      quality = networks.spread_qualities(len(image))
      latent = networks.code(params, image, quality=quality).y_hat
    return oasis_c.calibrate(
      networks.discriminator_config, params["discriminator"], image, latent
    )

  everywhere = sharding.replicated(mesh)
  return jax.jit(
    calibrate,
    in_shardings=(everywhere, sharding.split_batch(mesh)),
    out_shardings=everywhere,
  )(params, batch["image"])


def _level_fake(networks, params, batch, mesh, seed):
  """Parameters of the logits, "fake" being as likely as all classes at first.

  Pre-training shows no fake pixel, so it only pushes that logit down, and every
  pixel of a reconstruction would at first cost a dozen nats.
  """
  spectral = networks.init_spectral(params, seed)

  def level(params, image):
    logits, _ = networks.segment(
      params | {"spectral": spectral}, objectives.to_float(image), None
    )
    return jnp.mean(jax.nn.logsumexp(logits[..., 1:-1], axis=-1))

  everywhere = sharding.replicated(mesh)
  bias = jax.jit(
    level,
    in_shardings=(everywhere, sharding.split_batch(mesh)),
    out_shardings=everywhere,
  )(params, batch["image"])
  head = jax.tree.map(np.array, params["discriminator"]["logits"])
  head["kernel"][..., -1] = 0.0
  head["bias"][-1] = jax.device_get(bias)
  return head
