"""Official checkpoint names and arrays become ours, or the error names them."""

import re
import sys
import types

import numpy as np
import official_weights
import pytest

from egic_jax.interop import official
from egic_jax.models import codec, presets

FULL = presets.get_preset("full")
TINY = presets.get_preset("tiny")


@pytest.fixture
def arrays():
  """A tiny model under official names, each array of values of its own."""
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape).astype(np.float32)
    for name, shape in official.names(TINY, with_orp=True).items()
  }


@pytest.mark.parametrize("model", ["codec", "orp"])
def test_names_and_shapes_are_those_of_the_official_checkpoint(model):
  expected = official_weights.keys(model)
  assert official.names(FULL, with_orp=model == "orp") == expected


def test_there_and_back(arrays):
  params = official.from_official(arrays, TINY)
  back = official.to_official(params, TINY)
  assert back.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(back[name], array)


def test_tree_has_the_shapes_of_our_model(arrays):
  params = official.from_official(arrays, TINY)
  shapes = codec.param_shapes(TINY)

  def compare(ours, wanted):
    assert ours.keys() == wanted.keys()
    for name, leaf in wanted.items():
      if isinstance(leaf, dict):
        compare(ours[name], leaf)
      else:
        assert ours[name].shape == leaf.shape

  compare(params["codec"], shapes)
  compare(params["orp"], {"head": shapes["synthesis"]["stage_3"]})


def test_codec_alone_has_no_orp(arrays):
  codec_only = {k: v for k, v in arrays.items() if "cond_model" not in k}
  assert official.from_official(codec_only, TINY).keys() == {"codec"}


def test_missing_unknown_and_misshapen_are_named(arrays):
  missing = arrays.popitem()[0]
  misshapen = next(iter(arrays))
  arrays[misshapen] = np.zeros((7, 7))
  arrays["synthesis_transform/surplus"] = np.zeros(3)
  with pytest.raises(official.OfficialWeightsError) as info:
    official.from_official(arrays, TINY)
  message = str(info.value)
  assert f"1 missing: {missing};" in message
  assert "1 unknown: synthesis_transform/surplus;" in message
  assert re.search(rf"1 misshapen: {misshapen} \(7, 7\) instead of", message)
  assert "\n" not in message


def test_non_finite_is_refused(arrays):
  name = next(iter(arrays))
  arrays[name][..., 0] = np.nan
  with pytest.raises(official.OfficialWeightsError, match=name):
    official.from_official(arrays, TINY)


def test_npz_with_checkpoint_prefix_and_suffix(arrays, tmp_path):
  path = tmp_path / "weights.npz"
  np.savez(
    path,
    **{f"model/{k}/.ATTRIBUTES/VARIABLE_VALUE": v for k, v in arrays.items()},
    **{"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.int64(3)},
  )
  read = official.read_arrays(path)
  assert read.keys() == arrays.keys()


def test_tensorflow_checkpoint_through_its_reader(
  arrays, tmp_path, monkeypatch
):
  """TensorFlow itself is not needed here: a stand-in for its reader."""
  stored = {f"m/{k}/.ATTRIBUTES/VARIABLE_VALUE": v for k, v in arrays.items()}
  slot = next(iter(stored)) + "/.OPTIMIZER_SLOT/optimizer/m"
  stored[slot + "/.ATTRIBUTES/VARIABLE_VALUE"] = np.zeros(3)
  stored["save_counter/.ATTRIBUTES/VARIABLE_VALUE"] = np.int64(1)
  reader = types.SimpleNamespace(
    get_tensor=stored.__getitem__,
    get_variable_to_shape_map=lambda: {k: v.shape for k, v in stored.items()},
  )
  train = types.SimpleNamespace(load_checkpoint=lambda path: reader)
  monkeypatch.setitem(
    sys.modules, "tensorflow", types.SimpleNamespace(train=train)
  )
  (tmp_path / "ckpt-1.index").touch()
  assert official.read_arrays(tmp_path / "ckpt-1").keys() == arrays.keys()


@pytest.mark.parametrize("name", ["none.npz", "broken.npz", "ckpt-1"])
def test_unreadable_is_one_line(name, tmp_path):
  if name == "broken.npz":
    (tmp_path / name).write_bytes(b"PK\x03\x04 not really")
  with pytest.raises(official.OfficialWeightsError) as info:
    official.read_arrays(tmp_path / name)
  assert name in str(info.value) and "\n" not in str(info.value)
