"""The recipe's modules find their neighbours by path, as scripts do."""

import dataclasses
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

_RECIPE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_RECIPE / "experiments" / "ship_small"))

import plan  # noqa: E402

# Of camvid, whose classes the project's mapping knows.
_CLASSES = [
  "sky",
  "building",
  "pole",
  "road",
  "pavement",
  "tree",
  "sign",
  "fence",
  "car",
  "pedestrian",
  "bicyclist",
]


@pytest.fixture(scope="session")
def settings() -> Iterator[plan.Settings]:
  """Two of the stages at the smallest size, without panels.

  The one with the most to keep, and the one after it.
  """
  micro = plan.get_settings("micro")
  # Less to compile.
  codec = dataclasses.replace(micro.codec, num_slices=1, max_support=1)
  discriminator = dataclasses.replace(
    micro.discriminator, encoder_widths=(4,), decoder_widths=(6,)
  )
  stages = {
    name: dataclasses.replace(
      stage, share=1.0, batch_size=2, warmup_steps=2, kind="adam"
    )
    for name, stage in micro.stages.items()
    if name in ("stage2_gan", "stage3_orp")
  }
  changed = dataclasses.replace(
    micro,
    codec=codec,
    discriminator=discriminator,
    stages=stages,
    panel_seconds=float("inf"),
    dispatch_seconds=0.02,
  )
  with pytest.MonkeyPatch.context() as patch:
    # A model file's size is looked up by the name of its save.
    patch.setitem(plan.SETTINGS, "micro", changed)
    yield changed


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> pathlib.Path:
  """A collection: 8 labelled pictures, 6 without labels, 1 for evaluation."""
  root = tmp_path_factory.mktemp("photographs")
  generator = np.random.default_rng(0)
  for name, count in (("camvid", 8), ("others", 6)):
    (root / name / "images").mkdir(parents=True)
    for number in range(count):
      low = generator.integers(0, 256, (9, 8, 3)).astype(np.uint8)
      image = Image.fromarray(low).resize((70 + number, 90), Image.BILINEAR)
      image.save(root / name / "images" / f"{number}.webp", lossless=True)
      if name == "camvid":
        (root / name / "labels").mkdir(exist_ok=True)
        label = np.asarray(image)[..., 0] // 25
        label[0, 0] = 255
        Image.fromarray(label).save(root / name / "labels" / f"{number}.png")
    (root / name / "val.txt").write_text("0\n1\n")
  lines = [f"{i}\t{name}" for i, name in enumerate(_CLASSES)]
  (root / "camvid" / "classes.txt").write_text("\n".join(lines))
  (root / "kodak").mkdir()
  image.save(root / "kodak" / "kodim01.png")
  return root


@pytest.fixture(scope="session")
def pack(folder, tmp_path_factory) -> pathlib.Path:
  """What travels of it."""
  import photographs

  target = tmp_path_factory.mktemp("pack")
  photographs.pack(folder, target)
  return target
