"""All four stages, one from the other, from configurations on made scenes."""

import dataclasses
import hashlib
import pathlib

import jax
import lpips_arrays
import micro_program  # noqa: F401  Adds the size "micro".
import micro_training
import numpy as np
import official_weights
import pytest
import torch_files

from egic_jax import images
from egic_jax.bitstream import model_file
from egic_jax.cli import main, models, overrides
from egic_jax.interop import official, official_discriminator
from egic_jax.models import presets
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import checkpoints, discriminator_file, trainer

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
_COMMON = (
  "model.preset=micro",
  "model.discriminator_preset=micro",
  "data.config=tiny",
  "data.crop_size=64",
  "data.batch_size=4",
  "data.cache_decoded=true",
  "train.log_every=20",
  "train.checkpoint_every=1000",
  "train.sample_every=1000",
  "train.num_samples=2",
)


class _Runs:
  """Runs of stages in one directory, each made when first asked for."""

  def __init__(self, directory):
    self.directory = directory
    self.lines = {}
    self.outcomes = {}

  def train(self, name, config, *changes):
    workdir = self.directory / name
    self.lines[name] = []
    values = overrides.load_config(str(_CONFIGS / f"{config}.py"))
    data = f"data.data_dir={self.directory / 'tfds'}"
    overrides.apply_overrides(values, [*_COMMON, data, *changes])
    self.outcomes[name] = trainer.train(
      values, str(workdir), report=self.lines[name].append
    )
    return workdir

  def scalars(self, name):
    return micro_training.read_scalars(self.directory / name / "tensorboard")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Stages 0 to 3, each from the one before."""
  made = _Runs(tmp_path_factory.mktemp("stages"))
  stage0 = made.train(
    "stage0",
    "tiny_discriminator",
    "train.steps=120",
    "train.validate_every=20",
    "optimizer.learning_rate=0.01",
  )
  stage1 = made.train("stage1", "tiny", "train.steps=40")
  stage2 = made.train(
    "stage2",
    "tiny_gan",
    "train.steps=20",
    f"train.init_from={stage1}",
    f"train.init_discriminator={stage0}",
  )
  made.train(
    "stage3",
    "tiny_orp",
    "train.steps=60",
    "optimizer.learning_rate=0.003",
    f"train.init_from={stage2}",
  )
  return made


def test_stage_0_learns_to_segment(runs):
  scalars = runs.scalars("stage0")
  first = scalars["validation_miou", 20]
  last = scalars["validation_miou", 120]
  assert last > first
  accuracy = scalars["validation_pixel_accuracy", 120]
  # The scenes have 13 classes, void among them.
  assert accuracy > 3 / 12
  assert runs.outcomes["stage0"].metrics["pixel_accuracy"] == pytest.approx(
    accuracy
  )
  assert any("validation: miou" in line for line in runs.lines["stage0"])


def test_what_is_frozen_is_the_same_bit_for_bit(runs):
  _, stage1, _ = checkpoints.load_parameters(runs.directory / "stage1")
  _, stage2, _ = checkpoints.load_parameters(runs.directory / "stage2")
  _, stage3, _ = checkpoints.load_parameters(runs.directory / "stage3")
  for name, tree in stage1["codec"].items():
    same = micro_training.trees_equal(tree, stage2["codec"][name])
    assert same == (name != "synthesis"), name
  assert micro_training.trees_equal(stage2["codec"], stage3["codec"])
  assert "orp" in stage3
  _, before, _ = checkpoints.load_discriminator(runs.directory / "stage0")
  _, after, _ = checkpoints.load_discriminator(runs.directory / "stage2")
  assert not micro_training.trees_equal(before, after)


def test_stage_3_gives_a_choice_of_distortion(runs):
  scalars = runs.scalars("stage3")
  psnr = [
    scalars[f"sample_psnr_alpha_{alpha:.2f}", 60]
    for alpha in (1.0, 0.75, 0.5, 0.25, 0.0)
  ]
  assert psnr == sorted(psnr)
  assert psnr[-1] > psnr[0] + 0.1

  codec = models.open_codec(str(runs.directory / "stage3"))
  image = micro_training.uint8_batch(1)[0]
  data = codec.encode(image)
  assert not np.array_equal(codec.decode(data, 1.0), codec.decode(data, 0.0))
  # The choice is the decoder's: stage 2's bytes are the same.
  payload = models.open_codec(str(runs.directory / "stage2")).encode(image)
  assert len(payload) == len(data)


def test_the_released_stage_1_trains_and_resumes(runs, tmp_path):
  """With LPIPS of made-up weights, from files as their authors hand out."""
  paths = [tmp_path / "alexnet.pth", tmp_path / "heads.pth"]
  for path, arrays in zip(paths, lpips_arrays.files("alex"), strict=True):
    torch_files.write(path, arrays)
  digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
  changes = [
    "train.log_every=1",
    "train.num_samples=0",
    f"loss.lpips_files={paths[0]},{paths[1]}",
    f"loss.lpips_sha256={digests[0]},{digests[1][:12]}",
  ]
  whole = runs.train("lpips", "tiny_mse_lpips", "train.steps=3", *changes)
  assert any(f"sha256 {digests[1][:12]}" in x for x in runs.lines["lpips"])
  parts = runs.train("parts", "tiny_mse_lpips", "train.steps=1", *changes)
  runs.train("parts", "tiny_mse_lpips", "train.steps=3", *changes)
  assert any("continuing after step 1" in x for x in runs.lines["parts"])
  _, expected, _ = checkpoints.load_parameters(whole)
  _, found, step = checkpoints.load_parameters(parts)
  assert step == 3
  assert micro_training.trees_equal(expected, found)
  scalars = runs.scalars("lpips")
  for number in (1, 2, 3):
    distance = scalars["lpips", number]
    assert distance > 0
    # Weighted by 1 beside the two terms of stage1_mse.
    assert scalars["loss", number] == pytest.approx(
      0.00234375 * scalars["mse_255", number]
      + scalars["bpp", number]
      + distance,
      rel=1e-5,
    )


def test_stage_2_starts_from_official_weights(runs, tmp_path, monkeypatch):
  """Imported files do for either side, and stay what they were."""
  # The scenes' classes.
  size = dataclasses.replace(
    micro_training.micro_discriminator(), num_classes=13
  )
  monkeypatch.setitem(discriminator_presets._PRESETS, "micro", size)
  codec_size = presets.get_preset("micro")
  files = {}
  for key, names, flags in (
    ("init_from", official.names(codec_size), ()),
    (
      "init_discriminator",
      official_discriminator.names(size),
      ("--discriminator",),
    ),
  ):
    weights = tmp_path / f"{key}.npz"
    arrays = {k: official_weights.array(k, shape) for k, shape in names.items()}
    np.savez(weights, **arrays)
    files[key] = tmp_path / f"{key}.safetensors"
    command = ["import-official", str(weights), "--to", str(files[key])]
    assert main.main([*command, "--preset", "micro", *flags]) == 0
  workdir = runs.train(
    "from_files",
    "tiny_gan",
    "train.steps=1",
    "train.num_samples=0",
    "optimizer.learning_rate=1e-5",
    "optimizer.final_learning_rate=1e-5",
    *(f"train.{key}={path}" for key, path in files.items()),
  )
  assert any("starting from model" in x for x in runs.lines["from_files"])
  given = model_file.load_model(files["init_from"]).params["codec"]
  found = checkpoints.load_parameters(workdir)[1]["codec"]
  for name, tree in given.items():
    same = micro_training.trees_equal(tree, found[name])
    assert same == (name != "synthesis"), name
  _, given, _ = discriminator_file.load(files["init_discriminator"])
  _, found, _ = checkpoints.load_discriminator(workdir)
  # Adam's first step is as long as the learning rate.
  for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(found), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)
  assert not micro_training.trees_equal(given, found)


@pytest.mark.parametrize(
  ("name", "columns"),
  [("stage0", 3), ("stage1", 2), ("stage2", 6), ("stage3", 6)],
)
def test_panels(runs, name, columns):
  (path,) = (runs.directory / name / "samples").iterdir()
  panel = images.read(path)
  assert panel.shape[1] == columns * 66 - 2


def test_stage_0_has_no_codec(runs):
  with pytest.raises(ValueError, match="stage0_discriminator.*has no codec"):
    checkpoints.load_parameters(runs.directory / "stage0")
  with pytest.raises(ValueError, match="stage1_mse, which has no discrim"):
    checkpoints.load_discriminator(runs.directory / "stage1")


@pytest.mark.parametrize(
  ("config", "changes", "message"),
  [
    ("tiny_gan", (), "train.init_from is empty: stage2_gan starts from"),
    ("tiny_orp", (), "train.init_from is empty: stage3_orp starts from"),
    ("tiny_gan", ("train.init_from={stage0}",), "has no codec"),
    (
      "tiny_orp",
      ("train.init_from={stage2}", "model.preset=tiny"),
      "differs from this one in analysis_depths .*here",
    ),
    (
      "tiny_gan",
      (
        "train.init_from={stage1}",
        "train.init_discriminator={stage0}",
        "model.normalization=spectral",
      ),
      "normalization .weight, here spectral",
    ),
    (
      "tiny_gan",
      ("train.init_from={stage1}", "train.init_discriminator={stage1}"),
      "has no discriminator",
    ),
    ("tiny_gan", (f"train.init_from={__file__}",), "cannot be read"),
    (
      "tiny_gan",
      ("train.init_from={stage1}", f"train.init_discriminator={__file__}"),
      "no safetensors file",
    ),
    (
      "tiny_discriminator",
      ("train.init_from={stage1}",),
      "use train.init_discriminator",
    ),
    (
      "tiny",
      ("train.init_discriminator={stage0}",),
      "stage1_mse has no discriminator",
    ),
    ("tiny_mse_lpips", (), "loss.lpips_files is empty.*download"),
    ("tiny_gan", ("train.init_from={stage1}", "data.batch_size=3"), "times 2"),
    ("tiny_discriminator", ("train.ema_decay=0.9",), "nothing to average"),
    ("tiny", ("train.ema_decay=1.0",), "train.ema_decay=1.0"),
    ("tiny", ("train.accumulate=0",), "train.accumulate=0"),
    ("tiny_discriminator", ("model.conditioning=x",), "conditioning must be"),
  ],
)
def test_refused(runs, tmp_path, config, changes, message):
  paths = {name: runs.directory / name for name in runs.outcomes}
  with pytest.raises(ValueError, match=message) as caught:
    _refuse(runs, config, [change.format(**paths) for change in changes])
  assert "\n" not in str(caught.value)


def _refuse(runs, config, changes):
  workdir = runs.directory / "refused"
  values = overrides.load_config(str(_CONFIGS / f"{config}.py"))
  data = f"data.data_dir={runs.directory / 'tfds'}"
  overrides.apply_overrides(values, [*_COMMON, data, *changes])
  trainer.train(values, str(workdir), report=lambda line: None)
