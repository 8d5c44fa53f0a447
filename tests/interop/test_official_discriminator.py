"""The official discriminator's names and arrays become ours, or are named."""

import dataclasses
import re

import numpy as np
import official_weights
import pytest

from egic_jax.interop import official, official_discriminator
from egic_jax.models import presets as codec_presets
from egic_jax.models.discriminators import oasis_c, presets

FULL = presets.get_preset("full")
TINY = presets.get_preset("tiny", num_classes=4)


@pytest.fixture
def arrays():
  """A tiny network under official names, each array of values of its own."""
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in official_discriminator.names(TINY).items()
  }


def test_names_and_shapes_are_those_of_the_official_checkpoint():
  expected = official_weights.keys("discriminator")
  assert official_discriminator.names(FULL) == expected


def test_there_and_back(arrays):
  params = official_discriminator.from_official(arrays, TINY)
  assert params.keys() == {"discriminator"}
  shapes = dict(official.paths(oasis_c.param_shapes(TINY)))
  ours = dict(official.paths(params["discriminator"]))
  assert {k: v.shape for k, v in ours.items()} == {
    k: v.shape for k, v in shapes.items()
  }
  back = official_discriminator.to_official(params, TINY)
  assert back.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array)


def test_missing_unknown_and_misshapen_are_named(arrays):
  missing = arrays.popitem()[0]
  misshapen = next(iter(arrays))
  arrays[misshapen] = np.zeros((7, 7))
  arrays["layer_with_weights-77/surplus"] = np.zeros(3)
  with pytest.raises(official.OfficialWeightsError) as info:
    official_discriminator.from_official(arrays, TINY)
  message = str(info.value)
  assert f"1 missing: {missing};" in message
  assert "1 unknown: layer_with_weights-77/surplus;" in message
  assert re.search(rf"1 misshapen: {misshapen} \(7, 7\) instead of", message)
  assert "\n" not in message


@pytest.mark.parametrize(
  "change", [{"conditioning": "none"}, {"normalization": "spectral"}]
)
def test_other_kinds_have_no_official_names(change):
  config = dataclasses.replace(TINY, **change)
  with pytest.raises(ValueError, match=f"{next(iter(change))} is"):
    official_discriminator.names(config)


def test_checkpoint_that_holds_codec_and_discriminator(arrays, tmp_path):
  stored = {f"discriminator/{name}": array for name, array in arrays.items()}
  codec = codec_presets.get_preset("tiny")
  stored |= {
    f"model/{name}": np.zeros(1, np.float32) for name in official.names(codec)
  }
  stored["discriminator/layer_with_weights-13/_initialized"] = np.True_
  stored["save_counter"] = np.int64(3)
  path = tmp_path / "weights.npz"
  np.savez(
    path,
    **{f"{k}/.ATTRIBUTES/VARIABLE_VALUE": v for k, v in stored.items()},
  )
  read = official_discriminator.read_arrays(path)
  assert read.keys() == arrays.keys()
  # Names as they are; what is no part of the network is not dropped silently.
  np.savez(path, **arrays, surplus=np.zeros(3))
  read = official_discriminator.read_arrays(path)
  assert read.keys() == arrays.keys() | {"surplus"}
