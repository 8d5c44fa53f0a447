"""Trained parameters from a work directory, without the data libraries."""

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from egic_jax.models import codec, orp, presets
from egic_jax.models.discriminators import oasis_c
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import errors, manifest, stages
from egic_jax.training import workdir as workdir_lib

Report = Callable[[str], None]


def load_parameters(
  workdir: str | pathlib.Path, *, report: Report = logging.warning
) -> tuple[presets.CodecConfig, dict[str, Any], int]:
  """Reads the codec of a work directory's newest good checkpoint.

  Of parameters with a moving average, the average. Nothing of the data
  libraries is imported.

  Args:
    workdir: a directory that training wrote.
    report: called with one line for each damaged checkpoint passed over.

  Returns:
    The codec's size, the parameters as numpy arrays {"codec": tree, and "orp"
    if there is one}, and the number of updates that led to them.

  Raises:
    FileNotFoundError: not a work directory, or no checkpoint in it yet.
    ValueError: it has no codec, or its configuration or all of its checkpoints
      are damaged.
  """
  workdir = pathlib.Path(workdir).absolute()
  config = workdir_lib.read_config(workdir)
  codec_config = _read_size(workdir, config, "codec", presets.config_from_dict)
  shapes = codec.param_shapes(codec_config)
  shapes = {"codec": shapes, "orp": orp.init_from_synthesis(shapes)}
  params, step = _load_groups(
    workdir, shapes, required=("codec",), report=report
  )
  return codec_config, params, step


def load_discriminator(
  workdir: str | pathlib.Path, *, report: Report = logging.warning
) -> tuple[discriminator_presets.DiscriminatorConfig, dict[str, Any], int]:
  """Reads the discriminator of a work directory, like `load_parameters`.

  Returns:
    Its size, its parameters as numpy arrays, the number of updates.

  Raises:
    FileNotFoundError, ValueError: as `load_parameters`.
  """
  workdir = pathlib.Path(workdir).absolute()
  config = workdir_lib.read_config(workdir)
  size = _read_size(
    workdir, config, "discriminator", discriminator_presets.config_from_dict
  )
  params, step = _load_groups(
    workdir,
    {"discriminator": oasis_c.param_shapes(size)},
    required=("discriminator",),
    report=report,
  )
  return size, params["discriminator"], step


def _read_size(workdir, config, name, from_dict):
  """The size of a network from config.json; a line if it has none."""
  try:
    model = config["model"]
    others = {"codec", "discriminator"} & model.keys() - {name}
    if name not in model and others:
      raise ValueError(
        f"{workdir}: a run of {config['train']['stage']}, which has no {name};"
        " give the work directory of a stage that has"
      )
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{workdir / workdir_lib.CONFIG}: does not describe a model ({error!r})"
    ) from error
  try:
    return from_dict(model[name])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{workdir / workdir_lib.CONFIG}: does not describe a model ({error!r})"
    ) from error


def _load_groups(workdir, shapes, *, required, report):
  directory = workdir / workdir_lib.CHECKPOINTS
  steps = workdir_lib.steps_on_disk(workdir)
  if not steps:
    raise FileNotFoundError(
      f"{workdir}: no checkpoint yet; let the training reach"
      " train.checkpoint_every steps"
    )
  for step in steps:
    try:
      params = _read_params(directory / str(step), step, tuple(shapes))
      groups = {*params, *required}
      _check_shapes(params, {group: shapes[group] for group in groups})
      return params, step
    except Exception as error:  # Orbax raises all sorts on broken files.
      problem = errors.one_line(error)
      report(f"checkpoint {step} is damaged and not used: {problem}")
  raise ValueError(
    f"{directory}: none of the {len(steps)} checkpoints can be read"
    f" (oldest: {problem})"
  )


def _read_params(
  directory: pathlib.Path, step: int, groups: tuple[str, ...]
) -> dict[str, Any]:
  """Those of these groups that there are, averages where there are any."""
  found = manifest.read(directory, step)
  # The bare handler: it reads the item's directory without the manager's files.
  handler = ocp.PyTreeCheckpointHandler()
  tree = handler.metadata(directory / "state").tree
  wanted = {
    part: {name: tree[part][name] for name in groups if name in tree[part]}
    for part in ("params", "ema")
    if part in tree
  }
  target = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    {part: named for part, named in wanted.items() if named},
  )
  restored = handler.restore(
    directory / "state",
    args=ocp.args.PyTreeRestore(
      target,
      restore_args=jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target
      ),
      partial_restore=True,
    ),
  )
  handler.close()
  prefixes = tuple(
    f"{part}/{name}/" for part in ("params", "ema") for name in groups
  )
  manifest.check(manifest.named_arrays(restored), found, prefixes)
  return stages.overlay(restored["params"], restored.get("ema", {}))


def _check_shapes(params, shapes):
  expected = manifest.named_arrays(shapes, fetch=False)
  found = manifest.named_arrays(params, fetch=False)
  names = sorted(
    name
    for name in expected.keys() | found.keys()
    if getattr(expected.get(name), "shape", None)
    != getattr(found.get(name), "shape", None)
  )
  if names:
    raise ValueError(
      f"{len(names)} parameters do not fit {workdir_lib.CONFIG}, the first is"
      f" {names[0]}"
    )
