"""`egic train`: mistakes are one line and exit code 1.

Whole runs through the command are in tests/training/test_resume.py.
"""

import logging
import pathlib
import sys

import pytest

from egic_jax import runtime
from egic_jax.cli import train

_TINY = str(pathlib.Path(__file__).resolve().parents[2] / "configs" / "tiny.py")


@pytest.fixture(autouse=True)
def _leave_the_process_alone(monkeypatch):
  monkeypatch.setattr(runtime, "configure", lambda: None)
  monkeypatch.delenv("EGIC_TRACEBACK", raising=False)
  monkeypatch.setattr(sys, "excepthook", sys.excepthook)
  logger = logging.getLogger("absl")
  before = logger.level
  yield
  logger.setLevel(before)


def _error(capsys, *argv):
  assert train.run(argv) == 1
  error = capsys.readouterr().err
  assert error.startswith("egic train: error: ")
  assert len(error.splitlines()) == 1
  return error


@pytest.mark.parametrize(
  ("override", "message"),
  [
    ("train.stepz=3", "did you mean train.steps?"),
    ("--config.train.steps=x", "expected a whole number"),
    ("model.preset=huge", "'huge'"),
    ("model.compute_dtype=int8", "model.compute_dtype=int8"),
    ("train.stage=stage7", "stage7"),
    ("optimizer.kind=sgdd", "optimizer.kind=sgdd"),
    ("mesh.data=1000", "mesh.data=1000"),
    ("data.batch_size=0", "data.batch_size=0"),
    ("train.init_from=/no/such/run", "/no/such/run: not a work directory"),
    ("data.name=nothing", "nothing"),
    ("data.name=image_label_folder", "folder"),
  ],
)
def test_a_mistake_is_one_line(capsys, tmp_path, override, message):
  workdir = str(tmp_path / "run")
  error = _error(capsys, "--config", _TINY, "--workdir", workdir, override)
  assert message in error
  assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--num-processes", "2"), "--coordinator, --process-id: missing"),
    (("--coordinator", "here"), "--num-processes, --process-id: missing"),
    (("mesh.fsdp=1000",), "mesh.fsdp=1000: there are"),
    (("mesh.fsdp=0",), "mesh.fsdp=0: there are"),
  ],
)
def test_devices_and_processes_that_are_not_there(
  capsys, tmp_path, options, message
):
  workdir = str(tmp_path / "run")
  arguments = ("--config", _TINY, "--workdir", workdir)
  assert message in _error(capsys, *arguments, *options)


def test_a_bucket_is_no_directory(capsys):
  error = _error(capsys, "--config", _TINY, "--workdir", "gs://bucket/run")
  assert "--workdir=gs://bucket/run: must be a directory" in error


def test_a_missing_config(capsys, tmp_path):
  error = _error(capsys, "--config", "no.py", "--workdir", str(tmp_path))
  assert "no.py" in error


def test_a_work_directory_that_cannot_be(capsys, tmp_path):
  (tmp_path / "file").write_text("")
  workdir = str(tmp_path / "file" / "run")
  error = _error(capsys, "--config", _TINY, "--workdir", workdir)
  assert "file" in error


def test_a_traceback_for_those_who_want_one(monkeypatch, tmp_path):
  monkeypatch.setenv("EGIC_TRACEBACK", "1")
  with pytest.raises(ValueError, match="stepz"):
    train.run(["--config", _TINY, "--workdir", str(tmp_path), "train.stepz=1"])


def test_unknown_options_are_refused(capsys, tmp_path):
  with pytest.raises(SystemExit) as caught:
    train.run(["--config", _TINY, "--workdir", str(tmp_path), "--fast"])
  assert caught.value.code == 2
  assert "--fast" in capsys.readouterr().err
