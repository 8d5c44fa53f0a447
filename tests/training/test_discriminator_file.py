"""The discriminator's file: there and back, and what is no such file."""

import json

import micro_training
import pytest
import safetensors
import safetensors.numpy

from egic_jax.models.discriminators import oasis_c, presets
from egic_jax.training import discriminator_file

_CONFIG = micro_training.micro_discriminator()


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "d.safetensors"
  params = oasis_c.init_params(_CONFIG, 3)
  discriminator_file.save(path, _CONFIG, params, "a test")
  return path, params


def test_there_and_back(saved):
  path, params = saved
  config, found, source = discriminator_file.load(path)
  assert (config, source) == (_CONFIG, "a test")
  assert micro_training.trees_equal(found, params)


def _rewrite(path, **changes):
  with safetensors.safe_open(path, framework="numpy") as file:
    metadata = file.metadata() | changes
  tensors = safetensors.numpy.load_file(path)
  path.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))


def _config(**changes):
  return json.dumps(presets.config_to_dict(_CONFIG) | changes)


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda path: path.unlink(), "cannot read .*no such file"),
    (lambda path: path.write_bytes(b"x" * 99), "no safetensors file"),
    (lambda path: _rewrite(path, format="egic-model"), "no discriminator"),
    (lambda path: _rewrite(path, version="2"), "version '2'.*update"),
    (lambda path: _rewrite(path, config="{}"), "its description"),
    (lambda path: _rewrite(path, config=_config(num_classes=4)), "do not fit"),
    (
      lambda path: path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
      ),
      "SHA-256",
    ),
  ],
)
def test_what_is_none_is_one_line(saved, damage, message):
  path, _ = saved
  damage(path)
  with pytest.raises(
    discriminator_file.DiscriminatorFileError, match=message
  ) as caught:
    discriminator_file.load(path)
  assert str(path) in str(caught.value)
  assert "\n" not in str(caught.value)
