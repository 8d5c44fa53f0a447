"""The parameters that a stage starts from: an earlier stage's, or new ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from egic_jax.models import codec as codec_lib
from egic_jax.models import orp as orp_lib
from egic_jax.models import presets
from egic_jax.models.discriminators import oasis_c
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import checkpoints, objectives, sharding, stages
from egic_jax.training import networks as networks_lib

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Start:
  """What earlier runs give.

  Attributes:
    params: top-level groups of the parameter tree, numpy arrays.
    embedding_is_new: the discriminator never saw a latent.
  """

  params: dict[str, Any] = dataclasses.field(default_factory=dict)
  embedding_is_new: bool = False


def check_keys(
  stage: stages.Stage, *, init_from: str, init_discriminator: str
) -> None:
  """ValueError for a work directory that is missing or of no use."""
  if stage.starts_from and not init_from:
    raise ValueError(
      f"train.init_from is empty: {stage.name} starts from a trained"
      f" {' and '.join(stage.starts_from)}; give the work directory of the"
      " stage before"
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
  workdir: str, config: presets.CodecConfig, report: Report
) -> dict[str, Any]:
  """The codec's parameters of train.init_from; ValueError names a mismatch."""
  found, params, step = checkpoints.load_parameters(workdir, report=report)
  _check_same(
    f"train.init_from={workdir}: its codec differs from model.preset in",
    presets.config_to_dict(config),
    presets.config_to_dict(found),
  )
  report(f"codec: starting from step {step} of {workdir}")
  return params["codec"]


def load_discriminator(
  workdir: str,
  config: discriminator_presets.DiscriminatorConfig,
  report: Report,
) -> tuple[dict[str, Any], bool]:
  """The parameters of train.init_discriminator; ValueError names a mismatch.

  Returns:
    The parameters, and whether they have an embedding that was never trained:
    that of a segmentation network that no latent was given.
  """
  found, params, step = checkpoints.load_discriminator(workdir, report=report)
  _check_same(
    f"train.init_discriminator={workdir}: its discriminator differs from this"
    " one in",
    discriminator_presets.config_to_dict(config),
    discriminator_presets.config_to_dict(found),
  )
  report(f"discriminator: starting from step {step} of {workdir}")
  stage = stages.get_stage(checkpoints.read_config(workdir)["train"]["stage"])
  return params, "embedding" in params and "codec" not in stage.params


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
  discriminator, or of its new embedding, is initialised from *batch*.

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
  if config.normalization == "weight" and (is_new or start.embedding_is_new):
    found = _calibrate(networks, params, batch, mesh)
    if not is_new:
      # What was trained stays; the new layer starts with unit variance.
      found = params["discriminator"] | {"embedding": found["embedding"]}
    params["discriminator"] = found
  return params


def _calibrate(networks, params, batch, mesh):
  def calibrate(params, image):
    image = objectives.to_float(image)
    latent = None
    if "codec" in params:
      latent = networks.code(params, image).y_hat
    return oasis_c.calibrate(
      networks.discriminator_config, params["discriminator"], image, latent
    )

  everywhere = sharding.replicated(mesh)
  return jax.jit(
    calibrate,
    in_shardings=(everywhere, sharding.split_batch(mesh)),
    out_shardings=everywhere,
  )(params, batch["image"])
