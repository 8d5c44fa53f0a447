"""The model file of a training, and a save that is small enough to carry."""

import os
import pathlib

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
  tree = traverse_util.unflatten_dict(params, sep="/")
  found = tree.get("kept", {}) | tree.get("now", {})
  averages = traverse_util.unflatten_dict(others or {}, sep="/").get("ema", {})
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
    params=traverse_util.unflatten_dict(params, sep="/"),
    others={},
    position=position | {"lean": True},
  )
  size = sum(path.stat().st_size for path in copy.iterdir())
  return f"{copy}: {size / _MIB:.1f} MiB"
