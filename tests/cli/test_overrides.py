"""Configuration files and overrides on the command line."""

import pathlib

import ml_collections
import pytest

from egic_jax.cli import overrides

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"


@pytest.fixture
def config():
  return overrides.load_config(str(_CONFIGS / "base.py"))


def test_values_take_the_type_of_their_key(config):
  overrides.apply_overrides(
    config,
    [
      "train.steps=1e3",
      "--config.data.batch_size=1_6",
      "loss.rate_weight=2",
      "data.flip=no",
      "data.sets=a, b",
      "data.scale_range=(0.25, 2)",
      "data.folder=/some/where=else",
    ],
  )
  assert config.train.steps == 1000
  assert type(config.train.steps) is int
  assert config.data.batch_size == 16
  assert config.loss.rate_weight == 2.0
  assert type(config.loss.rate_weight) is float
  assert config.data.flip is False
  assert config.data.sets == ("a", "b")
  assert config.data.scale_range == (0.25, 2.0)
  assert config.data.folder == "/some/where=else"


def test_an_empty_value_empties_a_tuple(config):
  overrides.apply_overrides(config, ["data.sets=a"])
  assert config.data.sets == ("a",)
  config = overrides.load_config(str(_CONFIGS / "base.py"))
  overrides.apply_overrides(config, ["data.sets="])
  assert config.data.sets == ()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("train.step=3", "train.step: no such key; did you mean train.steps"),
    ("steps=3", "steps: no such key; did you mean train.steps"),
    ("qqqqq=3", "the sections are data, loss, mesh, model"),
    ("train=3", "train: no such key"),
    ("train.steps=1.5", "train.steps=1.5: expected a whole number"),
    ("train.steps=many", "expected a whole number"),
    ("train.steps=inf", "expected a whole number"),
    ("loss.rate_weight=x", "expected a number"),
    ("data.flip=perhaps", "expected true or false"),
    ("data.scale_range=1", "expected 2 values, like 0.5,1.5"),
    ("train.steps", "expected section.key=value"),
    ("--train.steps=3", "expected section.key=value"),
  ],
)
def test_mistakes_are_named_in_one_line(config, text, message):
  with pytest.raises(ValueError, match=message) as caught:
    overrides.apply_overrides(config, [text])
  assert "\n" not in str(caught.value)


def test_a_config_elsewhere_can_build_on_base(tmp_path):
  mine = tmp_path / "configs" / "mine.py"
  mine.parent.mkdir()
  mine.write_text(
    "from configs import base\n"
    "def get_config():\n"
    "  config = base.get_config()\n"
    "  config.train.steps = 7\n"
    "  return config\n"
  )
  config = overrides.load_config(str(mine))
  assert isinstance(config, ml_collections.ConfigDict)
  assert config.train.steps == 7


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("def get_config(:\n", "mine.py: .*syntax"),
    ("import no_such_module_anywhere\n", "no_such_module_anywhere"),
    ("x = 1\n", "defines no get_config"),
    ("def get_config():\n  return {}\n", "returned dict"),
    (
      "from configs import base\n"
      "def get_config():\n"
      "  config = base.get_config()\n"
      "  config.train.stepps = 1\n"
      "  return config\n",
      "stepps",
    ),
    (
      "from configs import base\n"
      "def get_config():\n"
      "  config = base.get_config()\n"
      "  config.train.steps = 'many'\n"
      "  return config\n",
      "steps",
    ),
  ],
)
def test_a_broken_config_file_is_one_line(tmp_path, source, message):
  path = tmp_path / "mine.py"
  path.write_text(source)
  with pytest.raises(ValueError, match=message) as caught:
    overrides.load_config(str(path))
  assert "\n" not in str(caught.value)


def test_a_missing_config_file_lists_the_others():
  with pytest.raises(ValueError, match=r"tinny.*full_mse.py, .*tiny.py"):
    overrides.load_config(str(_CONFIGS / "tinny.py"))
