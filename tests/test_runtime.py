"""Process-wide settings: when they apply, and when they keep out."""

import os

import jax
import pytest

from egic_jax import runtime


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
  for name in list(os.environ):
    if name.startswith("MALLOC_") or name in (
      "LD_PRELOAD",
      "GLIBC_TUNABLES",
      "JAX_COMPILATION_CACHE_DIR",
      "EGIC_CACHE_DIR",
      "XDG_CACHE_HOME",
    ):
      monkeypatch.delenv(name)
  monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.fixture
def updates(monkeypatch):
  """What is set in jax's configuration; nothing really is."""
  found = {}
  monkeypatch.setattr(jax.config, "update", found.__setitem__)
  return found


def test_cache_follows_xdg(monkeypatch, tmp_path, updates):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  directory = runtime.set_compilation_cache()
  assert directory.parent == tmp_path / "egic_jax" / "xla"
  assert directory.is_dir()
  assert updates["jax_compilation_cache_dir"] == str(directory)


def test_cache_can_be_put_elsewhere(monkeypatch, tmp_path, updates):
  monkeypatch.setenv("EGIC_CACHE_DIR", str(tmp_path / "mine"))
  assert runtime.set_compilation_cache().parent == tmp_path / "mine"


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("EGIC_CACHE_DIR", "off"),
    ("EGIC_CACHE_DIR", ""),
    ("EGIC_CACHE_DIR", "/dev/null/cache"),
    ("JAX_COMPILATION_CACHE_DIR", "/somewhere"),
  ],
)
def test_cache_is_not_set(monkeypatch, updates, name, value):
  monkeypatch.setenv(name, value)
  assert runtime.set_compilation_cache() is None
  assert updates == {}
