"""Names of slices, and what is said when libtpu is not there."""

import importlib.metadata
import importlib.util

import pytest

from egic_jax.training import tpu_topology


@pytest.fixture
def libtpu(monkeypatch):
  """Pretends that this version of libtpu is installed; None for none."""
  version = importlib.metadata.version
  find_spec = importlib.util.find_spec

  def install(found):
    def pretend(name):
      if name != "libtpu":
        return version(name)
      if found is None:
        raise importlib.metadata.PackageNotFoundError(name)
      return found

    monkeypatch.setattr(importlib.metadata, "version", pretend)
    monkeypatch.setattr(
      importlib.util,
      "find_spec",
      lambda name: object() if name == "libtpu" else find_spec(name),
    )

  return install


def test_names():
  chip, shape = tpu_topology.parse_name("v5e:4x4")
  assert (chip.name, shape) == ("v5e", (4, 4))
  assert tpu_topology.parse_name("v4:2x2x4")[1] == (2, 2, 4)
  for name in tpu_topology.EXAMPLES:
    tpu_topology.parse_name(name)


@pytest.mark.parametrize(
  "name", ["v9:2x2", "v5e", "v5e-16", "v5e:4", "", "4x4"]
)
def test_an_unknown_slice_gets_examples(name):
  with pytest.raises(ValueError, match=f"{name}: no such.*v5e:4x4") as caught:
    tpu_topology.parse_name(name)
  assert "\n" not in str(caught.value)


def test_no_libtpu(libtpu):
  libtpu(None)
  with pytest.raises(ValueError, match="not installed.*pip install 'libtpu=="):
    tpu_topology.check_libtpu()


def test_another_libtpu(libtpu):
  libtpu("0.0.1")
  with pytest.raises(ValueError, match="libtpu is 0.0.1.*'libtpu==.*'"):
    tpu_topology.check_libtpu()


def test_the_libtpu_that_jax_wants(libtpu):
  wanted = tpu_topology._wanted_libtpu()
  # Of jax's metadata, not our fallback.
  assert wanted.startswith("==0.")
  found = wanted.removeprefix("==").replace("*", "7")
  libtpu(found)
  assert tpu_topology.check_libtpu() == found
