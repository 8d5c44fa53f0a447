import errno
import os
import stat

import pytest

from egic_jax import atomic_files


def test_writes_and_replaces(tmp_path):
  path = tmp_path / "a"
  atomic_files.write_bytes(path, b"first")
  atomic_files.write_bytes(str(path), b"second")
  assert path.read_bytes() == b"second"
  assert os.listdir(tmp_path) == ["a"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
  (tmp_path / "ordinary").write_bytes(b"")
  atomic_files.write_bytes(tmp_path / "a", b"")
  modes = [stat.S_IMODE(os.stat(p).st_mode) for p in tmp_path.iterdir()]
  assert modes[0] == modes[1]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch, call
):
  path = tmp_path / "a"
  path.write_bytes(b"old")

  def fail(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "temporary")

  monkeypatch.setattr(os, call, fail)
  with pytest.raises(OSError) as caught:
    atomic_files.write_bytes(path, b"new")
  assert str(caught.value) == f"cannot write {path}: no space left on device"
  assert path.read_bytes() == b"old"
  assert os.listdir(tmp_path) == ["a"]


def test_interrupt_leaves_nothing(tmp_path, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, "replace", interrupt)
  with pytest.raises(KeyboardInterrupt):
    atomic_files.write_bytes(tmp_path / "a", b"new")
  assert os.listdir(tmp_path) == []


def test_missing_folder_and_folder(tmp_path):
  with pytest.raises(OSError, match="no such file or directory"):
    atomic_files.write_bytes(tmp_path / "none" / "a", b"")
  with pytest.raises(OSError, match="is a directory"):
    atomic_files.write_bytes(tmp_path, b"")


def test_long_names(tmp_path):
  path = tmp_path / ("a" * 255)
  atomic_files.write_bytes(path, b"x")
  assert path.read_bytes() == b"x"
  with pytest.raises(OSError, match="cannot write .*name too long"):
    atomic_files.write_bytes(tmp_path / ("a" * 256), b"x")


def test_symbolic_link_is_followed(tmp_path):
  (tmp_path / "target").write_bytes(b"old")
  (tmp_path / "link").symlink_to("target")
  atomic_files.write_bytes(tmp_path / "link", b"new")
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "target").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
  path = tmp_path / "pipe"
  os.mkfifo(path)
  reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
  try:
    atomic_files.write_bytes(path, b"through")
    assert os.read(reader, 100) == b"through"
  finally:
    os.close(reader)
  assert stat.S_ISFIFO(os.stat(path).st_mode)
