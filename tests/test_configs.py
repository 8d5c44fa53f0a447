"""Every file in configs/ builds and declares nothing that base does not."""

import ast
import pathlib
import re

import jax.numpy as jnp
import pytest

from egic_jax.cli import overrides
from egic_jax.data import color
from egic_jax.models import presets
from egic_jax.ops import gpu_kernel
from egic_jax.training import optimizer, sharding, stages, trainer

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "configs"
_FILES = sorted(_FOLDER.glob("*.py"))


def _keys(path):
  return dict(overrides.flatten(overrides.load_config(str(path))))


def test_there_are_configs():
  names = {path.stem for path in _FILES}
  assert {"base", "tiny", "tiny_mse", "small_mse", "full_mse"} <= names


@pytest.mark.parametrize("size", ["full", "small", "tiny"])
def test_every_stage_has_a_config(size):
  found = {
    overrides.load_config(str(path)).train.stage
    for path in _FILES
    if path.stem.startswith(size)
  }
  assert found == set(stages.stage_names())


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_config_builds(path):
  config = overrides.load_config(str(path))
  assert config.is_locked
  assert config.train.is_locked
  assert _keys(path).keys() == _keys(_FOLDER / "base.py").keys()
  codec_config = presets.get_preset(config.model.preset)
  assert config.data.crop_size % codec_config.hyper_stride == 0
  stage = stages.get_stage(config.train.stage)
  assert stage.updates
  parts = stage.portions * config.train.accumulate
  sharding.check_batch_size(
    config.data.batch_size, sharding.make_mesh(1), parts
  )
  assert config.data.color_policy in ("", *color.POLICIES)
  size = trainer.make_discriminator_config(
    config, codec_config, num_classes=133
  )
  assert size.latent_channels == codec_config.latent_channels
  schedules, optimizers = trainer.make_optimizers(config, stage)
  names = {update.optimizer for update in stage.updates}
  assert optimizers.keys() == schedules.keys() == names
  for name, schedule in schedules.items():
    assert float(schedule(config.train.steps - 1)) == pytest.approx(
      config.optimizer.final_learning_rate
    ), name


@pytest.mark.parametrize(
  "path", [p for p in _FILES if p.stem != "base"], ids=lambda path: path.stem
)
def test_docstring_tells_command_hardware_time_and_result(path):
  text = ast.get_docstring(ast.parse(path.read_text()))
  for label in ("Command:", "Hardware:", "Time:", "Result:"):
    assert label in text
  assert f"configs/{path.name}" in re.sub(r"\\\n\s*", "", text)


def test_one_gpu_has_adam_of_kernels(monkeypatch):
  config = overrides.load_config(str(_FOLDER / "full_gan.py"))
  stage = stages.get_stage("stage2_gan")
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  for kernels in (None, gpu_kernel.ONE_DEVICE):
    _, optimizers = trainer.make_optimizers(config, stage, kernels)
    for each in optimizers.values():
      assert isinstance(each, optimizer.FusedAdam) is bool(kernels)


def test_the_published_objective_and_schedule():
  config = overrides.load_config(str(_FOLDER / "full_gan.py"))
  assert config.data.batch_size == 16
  assert config.loss.adversarial_weight == 0.15
  assert config.loss.labelmix_weight == 10
  assert config.loss.lpips_weight == 1
  _, optimizers = trainer.make_optimizers(
    config, stages.get_stage("stage2_gan")
  )
  for each in optimizers.values():
    # Adam's first step is as long as the learning rate.
    update, _ = each.update(jnp.ones(()), each.init(jnp.ones(())))
    assert float(update) == pytest.approx(-1e-5, rel=1e-4)
  config.optimizer.discriminator_scale = 4.0
  schedules, _ = trainer.make_optimizers(config, stages.get_stage("stage2_gan"))
  rates = {name: float(schedule(0)) for name, schedule in schedules.items()}
  assert rates == pytest.approx({"generator": 1e-5, "discriminator": 4e-5})
  config = overrides.load_config(str(_FOLDER / "full_mse.py"))
  assert config.loss.distortion_weight == pytest.approx(0.1 * 2**-5 * 0.75)
  assert config.train.steps == 2_000_000
  assert config.optimizer.learning_rate == 1e-4
  assert config.optimizer.final_learning_rate == 1e-5
  assert config.optimizer.final_fraction == 0.1
