"""Who may continue a work directory."""

import micro_training
import pytest

from egic_jax.models import presets
from egic_jax.training import checkpoints
from egic_jax.training import workdir as workdir_lib

_CONFIG = {
  "model": {
    "preset": "micro",
    "codec": presets.config_to_dict(micro_training.micro_config()),
  },
  "data": {"name": "waves", "seed": 0},
  "train": {"steps": 4, "stage": "stage1_mse"},
}


def _claim(workdir, lines, **changes):
  config = {k: dict(v) for k, v in _CONFIG.items()}
  for key, value in changes.items():
    section, name = key.split("__")
    config[section][name] = value
  workdir_lib.claim(workdir, config, report=lines.append)


def test_a_work_directory_belongs_to_one_run(tmp_path):
  lines = []
  _claim(tmp_path / "run", lines)
  # Without checkpoints nothing is lost by another configuration.
  _claim(tmp_path / "run", lines, data__seed=5)
  _claim(tmp_path / "run", lines)
  (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
  assert lines == []
  _claim(tmp_path / "run", lines, train__steps=9)
  assert lines == ["changed since the last run: train.steps 4 > 9"]
  codec = dict(_CONFIG["model"]["codec"], num_slices=4)
  with pytest.raises(ValueError, match="data.seed was 0, is 5") as caught:
    _claim(tmp_path / "run", lines, data__seed=5, model__codec=codec)
  assert "model.codec.num_slices was 2, is 4" in str(caught.value)
  assert "--workdir" in str(caught.value)
  # A refusal changes nothing.
  assert checkpoints.read_config(tmp_path / "run")["data"]["seed"] == 0
