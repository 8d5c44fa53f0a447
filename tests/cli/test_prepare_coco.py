import subprocess
import sys

import pytest
from tiny_coco import make

from egic_jax.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  directory = tmp_path_factory.mktemp("downloaded")
  command = [sys.executable, make.__file__, directory, "--train", "4"]
  done = subprocess.run(command, capture_output=True, text=True, check=True)
  assert "4 + 3 pictures" in done.stdout
  return directory


def egic(*argv):
  return main.main([str(a) for a in argv])


def test_prepares_once_and_tells_what_there_is(files, tmp_path, capsys):
  arguments = ["prepare-coco", "--data-dir", tmp_path, "--allow-subset"]
  assert egic(*arguments, "--from", files) == 0
  first = capsys.readouterr()
  line = first.out.splitlines()[-1]
  assert "4 train, 3 validation pictures, 133 classes" in line
  assert str(tmp_path) in line
  assert "coco train: writing 4 records" in first.err
  # It is there: no files are needed any more.
  assert egic(*arguments, "--from", tmp_path / "nowhere") == 0
  second = capsys.readouterr()
  assert second.out.splitlines() == [line]
  assert "writing" not in second.err


def test_incomplete_dataset_is_an_error_in_one_line(files, tmp_path, capsys):
  assert egic("prepare-coco", "--from", files, "--data-dir", tmp_path) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("egic prepare-coco: error: ")
  assert "4 of 118,287" in line and "--allow-subset" in line


def test_wrong_directory_is_an_error_in_one_line(tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  for name in ("empty", "nowhere"):
    assert (
      egic("prepare-coco", "--from", tmp_path / name, "--data-dir", tmp_path)
      == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and "expected train2017" in line


def test_listed_and_documented(capsys):
  assert egic("--help") == 0
  assert "prepare-coco" in capsys.readouterr().out
  with pytest.raises(SystemExit) as stop:
    egic("prepare-coco", "--help")
  assert stop.value.code == 0
  assert "118,287" in " ".join(capsys.readouterr().out.split())
  with pytest.raises(SystemExit) as stop:
    egic("prepare-coco")
  assert stop.value.code == 2
