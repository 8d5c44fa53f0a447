"""What earlier runs kept: found, refused when damaged, foreign or unsafe."""

import os

import jax
import pytest

from egic_jax import program_store


@pytest.fixture
def store(tmp_path):
  return program_store.Store(tmp_path / "kept")


def test_reads_back(store):
  assert store.read("kind", "key") is None
  store.write("kind", "key", b"content")
  assert store.read("kind", "key") == b"content"
  assert store.read("kind", "other key") is None
  assert store.read("other", "key") is None


@pytest.mark.parametrize("at", [0, 31, 32, -1])
def test_damage_is_noticed(store, tmp_path, at):
  store.write("kind", "key", b"content")
  (path,) = (tmp_path / "kept").iterdir()
  data = bytearray(path.read_bytes())
  data[at] ^= 1
  path.write_bytes(data)
  assert store.read("kind", "key") is None
  path.write_bytes(data[:-3])
  assert store.read("kind", "key") is None
  path.write_bytes(b"")
  assert store.read("kind", "key") is None
  store.write("kind", "key", b"anew")
  assert store.read("kind", "key") == b"anew"


def test_other_settings_of_jax_are_another_key(store):
  store.write("kind", "key", b"content")
  with jax.default_matmul_precision("bfloat16"):
    assert store.read("kind", "key") is None
  assert store.read("kind", "key") == b"content"


def test_other_sources_are_another_key(monkeypatch, tmp_path):
  program_store.Store(tmp_path).write("kind", "key", b"content")
  monkeypatch.setattr(program_store, "_sources_digest", lambda: "changed")
  assert program_store.Store(tmp_path).read("kind", "key") is None


def test_sources_changed_meanwhile_keep_nothing(monkeypatch, store, tmp_path):
  monkeypatch.setattr(program_store, "_sources_digest", lambda: "changed")
  store.write("kind", "key", b"content")
  assert not list((tmp_path / "kept").iterdir())


def test_the_oldest_go(monkeypatch, store, tmp_path):
  monkeypatch.setattr(program_store, "_MOST_FILES", 2)
  for i, key in enumerate("abc"):
    store.write("kind", key, b"content")
    for path in (tmp_path / "kept").iterdir():
      if path.stat().st_mtime > 100:
        os.utime(path, (i, i))
  found = [store.read("kind", key) is not None for key in "abc"]
  assert found == [False, True, True]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_open_to_others_is_not_used(tmp_path, mode):
  place = tmp_path / "open"
  place.mkdir()
  place.chmod(mode)
  assert not program_store.use(place)
  assert program_store.current() is None


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_a_directory_of_another_user_is_not_used(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
  assert not program_store.use(tmp_path)


def test_no_directory_is_no_error(tmp_path):
  (tmp_path / "file").write_bytes(b"")
  assert not program_store.use(tmp_path / "file" / "kept")
  assert not program_store.use(None)
