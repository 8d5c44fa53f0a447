import dataclasses
import json
import os

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from egic_jax import program_store
from egic_jax.bitstream import model_file, tables
from egic_jax.models import codec

_BIAS = "codec/analysis/patch_embedding/bias"


@pytest.fixture
def saved(model, tmp_path):
  path = tmp_path / "model.safetensors"
  model_file.save_model(path, model)
  return path


def _rewrite(path, change):
  """Applies change(tensors, metadata) to a file, its digest kept right."""
  with safetensors.safe_open(path, framework="numpy") as file:
    metadata = dict(file.metadata())
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  change(tensors, metadata)
  if "digest" in metadata:
    metadata["digest"] = model_file._digest(tensors).hexdigest()
  safetensors.numpy.save_file(tensors, path, metadata=metadata)


def _flat(model):
  return model_file._leaves(model.params) | model_file._flatten_tables(
    model.tables
  )


def test_comes_back_whole(model, saved):
  loaded = model_file.load_model(saved)
  assert loaded.config == model.config
  assert loaded.fingerprint == model.fingerprint
  assert loaded.metadata == model.metadata
  assert _flat(loaded).keys() == _flat(model).keys()
  for name, value in _flat(model).items():
    np.testing.assert_array_equal(_flat(loaded)[name], value)
  for name, table in model.tables.items():
    for field in dataclasses.fields(table):
      np.testing.assert_array_equal(
        getattr(loaded.tables[name], field.name), getattr(table, field.name)
      )


def test_metadata_comes_back(model, tmp_path):
  described = model_file.build_model(
    model.config, model.params, {"step": "12", "note": "häufig"}
  )
  model_file.save_model(tmp_path / "m", described)
  assert model_file.load_model(tmp_path / "m").metadata == {
    "step": "12",
    "note": "häufig",
  }
  with pytest.raises(ValueError, match="may not be called config"):
    model_file.build_model(model.config, model.params, {"config": ""})


def test_tables_are_the_parameters_own(model):
  expected = tables.prior_tables(model.params["codec"]["prior"])
  np.testing.assert_array_equal(
    model.tables["prior"].frequencies, expected.frequencies
  )
  assert len(model.tables["prior"]) == model.config.hyper_width
  assert len(model.tables["gaussian"]) == 64


def test_head_and_discriminator_are_optional(model, tmp_path):
  params = {"codec": model.params["codec"], "discriminator": {"w": np.ones(1)}}
  plain = model_file.build_model(model.config, params)
  assert set(plain.params) == {"codec"}
  # What decodes a file is the codec: the ORP head does not rename it.
  assert plain.fingerprint == model.fingerprint
  model_file.save_model(tmp_path / "m", plain)
  assert set(model_file.load_model(tmp_path / "m").params) == {"codec"}


def test_fingerprint_depends_on_all_that_decides_a_file(model):
  for name, value in _flat(model).items():
    changed = dict(_flat(model))
    changed[name] = value.copy()
    changed[name].flat[-1] += 1
    same = model_file._fingerprint(model.config, changed) == model.fingerprint
    assert same == name.startswith("orp/"), name
  config = dataclasses.replace(model.config, max_support=1)
  assert model_file._fingerprint(config, _flat(model)) != model.fingerprint


def test_fingerprint_does_not_depend_on_the_order_of_names(model):
  backwards = dict(reversed(_flat(model).items()))
  assert model_file._fingerprint(model.config, backwards) == model.fingerprint


@pytest.mark.parametrize(
  "change, message",
  [
    (lambda t, m: t.pop(_BIAS), f"{_BIAS} is missing"),
    (
      lambda t, m: t.update({"codec/x": np.ones(1, np.float32)}),
      "codec/x is unknown",
    ),
    (
      lambda t, m: t.update({_BIAS: np.ones(3, np.float32)}),
      rf"{_BIAS} has shape \(3,\) instead of \(8,\)",
    ),
    (
      lambda t, m: t.update({_BIAS: np.ones(8, np.float16)}),
      f"{_BIAS} is float16",
    ),
    (
      lambda t, m: t.update({_BIAS: np.full(8, np.nan, np.float32)}),
      f"{_BIAS} holds a value that is not finite",
    ),
    (
      lambda t, m: t.update({_BIAS: np.full(8, np.inf, np.float32)}),
      f"{_BIAS} holds a value that is not finite",
    ),
    (
      lambda t, m: t.update({_BIAS: np.full(8, 0.5, np.float32)}),
      "do not match its fingerprint",
    ),
    (lambda t, m: t.pop("tables/prior/offsets"), "tables/prior/offsets"),
    (
      lambda t, m: t["tables/prior/frequencies"].__setitem__(0, 0),
      "tables/prior is damaged: a frequency is less than 1",
    ),
    (
      lambda t, m: t["tables/gaussian/frequencies"].__iadd__(1),
      "tables/gaussian is damaged: table 0 sums to",
    ),
    (
      lambda t, m: t.update(
        {k.replace("gaussian", "prior"): v for k, v in t.items() if "gau" in k}
      ),
      "tables/prior holds 64 tables instead of 8",
    ),
    (lambda t, m: m.update(format="other"), "not a model of egic_jax"),
    (lambda t, m: m.clear(), "not a model of egic_jax"),
    (lambda t, m: m.update(version="2"), "format version '2'"),
    (lambda t, m: m.pop("config"), "description is damaged"),
    (lambda t, m: m.update(config="[1]"), "description is damaged"),
    (lambda t, m: m.update(config="{"), "description is damaged"),
    (lambda t, m: m.update(fingerprint="zz"), "description is damaged"),
    (lambda t, m: m.update(fingerprint="00" * 8), "fingerprint 0000000000"),
    (lambda t, m: m.pop("digest"), "description is damaged"),
  ],
)
def test_each_fault_is_named(saved, change, message):
  _rewrite(saved, change)
  with pytest.raises(model_file.ModelFileError, match=message) as caught:
    model_file.load_model(saved)
  assert "\n" not in str(caught.value) and str(saved) in str(caught.value)


def test_other_configuration_lists_what_does_not_fit(saved):
  def change(tensors, metadata):
    config = json.loads(metadata["config"])
    config["hyper_width"] = 16
    metadata["config"] = json.dumps(config)

  _rewrite(saved, change)
  with pytest.raises(model_file.ModelFileError, match=r"and \d+ more"):
    model_file.load_model(saved)


def test_moved_mass_in_a_table_is_noticed(saved, model):
  # Each frequency and every sum stays sound: only the digest can tell.
  with safetensors.safe_open(saved, framework="numpy") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  largest = int(np.argmax(model.tables["gaussian"][0]))
  tensors["tables/gaussian/frequencies"][largest : largest + 2] += [-5, 5]
  safetensors.numpy.save_file(tensors, saved, metadata=metadata)
  with pytest.raises(model_file.ModelFileError, match="digest"):
    model_file.load_model(saved)


def test_flipped_bits_and_truncations_raise(saved):
  data = saved.read_bytes()
  rng = np.random.default_rng(0)
  header = 8 + int.from_bytes(data[:8], "little")
  positions = np.concatenate(
    [np.arange(8), rng.integers(0, header, 60), rng.integers(0, len(data), 60)]
  )
  for position in positions:
    damaged = bytearray(data)
    damaged[position] ^= 1 << rng.integers(8)
    saved.write_bytes(damaged)
    # A flip in the header may fall on white space, of no consequence.
    try:
      model_file.load_model(saved)
    except model_file.ModelFileError as error:
      assert "\n" not in str(error)
    else:
      assert 8 <= position < header
  for length in (0, 4, 8, 100, header, len(data) - 1):
    saved.write_bytes(data[:length])
    with pytest.raises(model_file.ModelFileError):
      model_file.load_model(saved)
  saved.write_bytes(data + b"\0")
  with pytest.raises(model_file.ModelFileError):
    model_file.load_model(saved)


def test_missing_file_and_folder(tmp_path):
  with pytest.raises(model_file.ModelFileError, match="does not exist"):
    model_file.load_model(tmp_path / "none")
  with pytest.raises(model_file.ModelFileError, match="is not a file"):
    model_file.load_model(tmp_path)
  (tmp_path / "text").write_text("hello, this is not a model at all")
  with pytest.raises(model_file.ModelFileError, match="cannot be read"):
    model_file.load_model(tmp_path / "text")


def test_build_refuses_parameters_that_do_not_fit(model):
  params = {"codec": dict(model.params["codec"])}
  del params["codec"]["prior"]
  with pytest.raises(model_file.ModelFileError, match="codec/prior/biases_0"):
    model_file.build_model(model.config, params)
  with pytest.raises(model_file.ModelFileError, match="is missing"):
    model_file.build_model(model.config, {})


def test_half_comes_back_whole_in_half_the_space(model, saved, tmp_path):
  half = model_file.build_model(
    model.config, model.params, {"step": "3"}, half=True
  )
  for name, value in model_file._leaves(half.params).items():
    assert value.dtype == np.float32
    original = model_file._leaves(model.params)[name]
    np.testing.assert_array_equal(
      value, original.astype(np.float16).astype(np.float32)
    )
  # The tables are those of the rounded parameters, and all have one name.
  expected = tables.prior_tables(half.params["codec"]["prior"])
  np.testing.assert_array_equal(
    half.tables["prior"].frequencies, expected.frequencies
  )
  assert half.fingerprint != model.fingerprint
  again = model_file.build_model(model.config, half.params)
  assert again.fingerprint == half.fingerprint

  path = tmp_path / "half.safetensors"
  model_file.save_model(path, half)
  with safetensors.safe_open(path, framework="numpy") as file:
    assert file.get_tensor(_BIAS).dtype == np.float16
  values = sum(v.size for v in model_file._leaves(model.params).values())
  saving = saved.stat().st_size - path.stat().st_size
  # Less what the header takes for other places in the file.
  assert saving == pytest.approx(2 * values, rel=0.05)
  loaded = model_file.load_model(path)
  assert loaded.half and loaded.fingerprint == half.fingerprint
  assert loaded.metadata == {"step": "3"}
  for name, value in _flat(half).items():
    assert _flat(loaded)[name].dtype == value.dtype
    np.testing.assert_array_equal(_flat(loaded)[name], value)
  # What was loaded is written as it was.
  model_file.save_model(tmp_path / "again", loaded)
  assert (tmp_path / "again").read_bytes() == path.read_bytes()
  assert not model_file.load_model(saved).half


def test_half_has_faults_of_its_own(model, tmp_path):
  path = tmp_path / "half.safetensors"
  half = model_file.build_model(model.config, model.params, half=True)
  model_file.save_model(path, half)
  _rewrite(path, lambda t, m: t[_BIAS].__setitem__(0, np.inf))
  with pytest.raises(model_file.ModelFileError, match="is not finite"):
    model_file.load_model(path)
  model_file.save_model(path, half)
  _rewrite(path, lambda t, m: t[_BIAS].__iadd__(np.float16(0.5)))
  with pytest.raises(model_file.ModelFileError, match="fingerprint"):
    model_file.load_model(path)

  flat = model_file._leaves(model.params)
  flat[_BIAS] = np.array([1, -7e4, 0, 0, 0, 0, 0, 0], np.float32)
  large = model_file._unflatten(flat)
  model_file.build_model(model.config, large)
  with pytest.raises(
    model_file.ModelFileError, match=f"{_BIAS} holds 70000, .*without half"
  ) as caught:
    model_file.build_model(model.config, large, half=True)
  assert "\n" not in str(caught.value)


def test_saving_replaces_whole(model, saved):
  before = saved.read_bytes()
  model_file.save_model(saved, model)
  assert saved.read_bytes() == before
  assert os.listdir(saved.parent) == [saved.name]
  with pytest.raises(OSError, match="cannot write"):
    model_file.save_model(saved.parent / "none" / "m", model)


def test_shapes_are_remembered(saved, tmp_path, monkeypatch):
  monkeypatch.setattr(program_store, "_current", None)
  assert program_store.use(tmp_path / "kept")
  model_file.load_model(saved)

  def traced(config):
    raise AssertionError(f"traced {config}")

  monkeypatch.setattr(codec, "param_shapes", traced)
  model_file.load_model(saved)
  _rewrite(saved, lambda tensors, _: tensors.update({_BIAS: np.zeros(3, "f4")}))
  with pytest.raises(model_file.ModelFileError, match=r"shape \(3,\) instead"):
    model_file.load_model(saved)
