"""Shipped models: what is listed, found and taken by default."""

import json
import pathlib

import jax
import pytest
from commands_model import save_model

import egic_jax
from egic_jax.bitstream import model_file
from egic_jax.shipped import catalog

_MAX_BYTES = 16 * 2**20


@pytest.fixture
def shelf(tmp_path, monkeypatch):
  """An empty directory in place of the package's."""
  monkeypatch.setenv(catalog.VARIABLE, str(tmp_path))
  return tmp_path


def test_what_is_told_is_what_the_file_holds(shelf):
  path = save_model(
    shelf / "two.safetensors",
    rate_levels=3,
    bpp=json.dumps([0.1, 0.2, 0.45]),
    description="For tests.",
  )
  save_model(shelf / "one.safetensors", seed=1)
  one, two = catalog.models()
  assert (one.name, two.name) == ("one", "two")
  assert (one.levels, one.bpp, one.description) == (0, (), "")
  model = model_file.load_model(path)
  assert two.fingerprint == model.fingerprint.hex()
  assert two.parameters == sum(p.size for p in jax.tree.leaves(model.params))
  assert two.size_bytes == pathlib.Path(path).stat().st_size
  assert (two.levels, two.bpp) == (3, (0.1, 0.2, 0.45))
  assert two.description == "For tests." and two.path == pathlib.Path(path)
  assert catalog.find("two") == two and catalog.find("three") is None
  assert catalog.find_by_fingerprint(one.fingerprint) == one
  assert catalog.find_by_fingerprint("00" * 8) is None


def test_only_headers_are_read(shelf):
  path = pathlib.Path(save_model(shelf / "one.safetensors"))
  data = path.read_bytes()
  path.write_bytes(data[: 8 + int.from_bytes(data[:8], "little")])
  assert catalog.models()[0].levels == 0


def test_the_default(shelf):
  with pytest.raises(ValueError, match="none comes with this installation"):
    catalog.default()
  save_model(shelf / "one.safetensors")
  save_model(shelf / "two.safetensors", rate_levels=3)
  (shelf / "default.txt").write_text("two\n")
  assert catalog.default().name == "two"
  assert egic_jax.load_model().quality_range == (1.0, 3.0)
  assert egic_jax.load_model("one").quality_range is None
  (shelf / "default.txt").write_text("three\n")
  with pytest.raises(ValueError, match="'three' that does not exist"):
    catalog.default()


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"no model",
    b"\xff" * 100,
    b"\2\0\0\0\0\0\0\0{}",
    b"\2\0\0\0\0\0\0\0[]",
    b"\x14\0\0\0\0\0\0\0" + b'{"__metadata__": {}}',
  ],
)
def test_a_file_that_is_no_model_is_named(shelf, data):
  (shelf / "bad.safetensors").write_bytes(data)
  with pytest.raises(ValueError, match="bad.safetensors: is none") as caught:
    catalog.models()
  assert "\n" not in str(caught.value)


def test_what_is_shipped_fits(monkeypatch):
  """The package's own directory."""
  monkeypatch.delenv(catalog.VARIABLE, raising=False)
  models = catalog.models()
  if not models:
    pytest.skip("no model is shipped yet")
  assert catalog.default() in models
  assert len({model.fingerprint for model in models}) == len(models)
  for model in models:
    assert model.size_bytes < _MAX_BYTES
    assert model.description and "\n" not in model.description
    assert len(model.bpp) in (0, max(model.levels, 1))
