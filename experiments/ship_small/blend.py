"""A save whose g_s lies between those of two others."""

import pathlib

import plan
import saved
from flax import traverse_util


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
  folder = saved.save(
    target,
    params=traverse_util.unflatten_dict(found, sep="/"),
    others={},
    position=position,
  )
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
