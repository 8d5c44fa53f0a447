"""The model file of a training, and a save that is small enough to carry."""

import os
import pathlib
from typing import Any

import plan
import saved
from flax import traverse_util

from egic_jax.bitstream import model_file

_MIB = 1 << 20


def export(
  source: pathlib.Path, target: pathlib.Path, *, half: bool, hardware: str
) -> str:
  """Writes the model that a save holds; averages where there are any.

  Args:
    source: a save, or a folder of saves.
    target: the model file.
    half: parameters rounded to float16.
    hardware: what it was trained on, for the metadata.

  Returns:
    A line for the user.

  Raises:
    ValueError: no save, or none that has a codec yet.
  """
  folder = saved.newest(source)
  if folder is None:
    raise ValueError(f"--from={source}: holds no save")
  params, others, position = saved.load(folder)
  tree = _tree(params)
  found = tree.get("kept", {}) | tree.get("now", {})
  averages = _tree(others or {}).get("ema", {})
  found = traverse_util.unflatten_dict(
    traverse_util.flatten_dict(found) | traverse_util.flatten_dict(averages)
  )
  if "codec" not in found:
    raise ValueError(f"{folder}: has no codec yet, only {', '.join(found)}")
  metadata = {
    "recipe": "experiments/ship_small",
    "stage": position["stage"] or "all",
    "updates": str(position["updates"]),
    "squares": str(position["images"]),
    "minutes": f"{position['seconds'] / 60:.1f}",
  }
  if hardware:
    metadata["hardware"] = hardware
  model = model_file.build_model(
    plan.get_settings(position["size"]).codec, found, metadata, half=half
  )
  model_file.save_model(target, model)
  return (
    f"{target}: model {model.fingerprint.hex()},"
    f" {os.path.getsize(target) / _MIB:.1f} MiB, parts {', '.join(model.params)};"
    f" {position['updates']} updates in {metadata['minutes']} minutes"
  )


def lean(source: pathlib.Path, target: pathlib.Path) -> str:
  """Copies a save without moments and averages, which then start anew.

  Args:
    source: a save, or a folder of saves.
    target: a folder for the copy.

  Returns:
    A line for the user.

  Raises:
    ValueError: no save.
  """
  folder = saved.newest(source)
  if folder is None:
    raise ValueError(f"--from={source}: holds no save")
  params, _, position = saved.load(folder)
  copy = saved.save(
    target,
    params=_tree(params),
    others={},
    position=position | {"lean": True},
  )
  size = sum(path.stat().st_size for path in copy.iterdir())
  return f"{copy}: {size / _MIB:.1f} MiB"


def blend(
  first: pathlib.Path, last: pathlib.Path, target: pathlib.Path, share: float
) -> str:
  """A save before stage 3 whose g_s lies between those of two saves.

  What a discriminator adds can be too much of it. Weights on the way there make
  pictures on the way there (Wang et al., ESRGAN, section 3.4).

  Args:
    first: a save, or a folder of saves, after stage 1.
    last: likewise, after stage 2; all but g_s is taken from it.
    target: a folder for the new save.
    share: of the last g_s, in [0, 1].

  Returns:
    A line for the user.

  Raises:
    ValueError: no save, no g_s in one, or other parameters than g_s moved.
  """
  if not 0 <= share <= 1:
    raise ValueError(f"--share={share}: must lie in [0, 1]")
  before, _, _ = _codec_and_discriminator(first)
  after, position, stage = _codec_and_discriminator(last)
  found = {}
  for name, array in after.items():
    old = before.get(name)
    if name.startswith("codec/") and (old is None or old.shape != array.shape):
      raise ValueError(f"{first}: has no {name} like that of {last}")
    if name.startswith("codec/synthesis/"):
      found[f"kept/{name}"] = ((1 - share) * old + share * array).astype(
        array.dtype
      )
    elif name.startswith("codec/") and not (old == array).all():
      raise ValueError(f"{first}: its {name} is not that of {last}")
    else:
      found[f"kept/{name}"] = array
  position |= {"stage": stage, "update": 0}
  position["planned"].pop(stage, None)
  position["spent"][stage] = 0.0
  folder = saved.save(target, params=_tree(found), others={}, position=position)
  return f"{folder}: g_s {share:g} of the way, next is {stage}"


def _codec_and_discriminator(source):
  folder = saved.newest(source)
  if folder is None:
    raise ValueError(f"{source}: holds no save")
  params, _, position = saved.load(folder)
  arrays = {name.split("/", 1)[1]: array for name, array in params.items()}
  groups = ("codec/", "discriminator/")
  last_stage = list(plan.get_settings(position["size"]).stages)[-1]
  return (
    {name: a for name, a in arrays.items() if name.startswith(groups)},
    position,
    last_stage,
  )


def _tree(arrays: dict[str, Any]) -> dict[str, Any]:
  return traverse_util.unflatten_dict(
    {tuple(name.split("/")): array for name, array in arrays.items()}
  )
