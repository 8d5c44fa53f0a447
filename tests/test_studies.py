"""What the scripts in experiments/ compute themselves."""

import importlib.util
import pathlib
import sys

import numpy as np
import pytest
import tensorboardX

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture(scope="module")
def load():
  """Imports a script of experiments/, which find their neighbours by path."""
  before = list(sys.path)

  def load(name):
    path = _FOLDER / name
    spec = importlib.util.spec_from_file_location(
      "study_" + name.removesuffix(".py").replace("/", "_"), path
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  yield load
  sys.path[:] = before


def _write(directory, number, points):
  writer = tensorboardX.SummaryWriter(
    str(directory / "part"), write_to_disk=True
  )
  for step, value in points:
    writer.add_scalar("loss", value, step)
  writer.close()
  (path,) = (directory / "part").iterdir()
  (directory / "tensorboard").mkdir(exist_ok=True)
  path.rename(directory / "tensorboard" / f"events.out.{number}")


def test_curves_of_a_run_that_was_continued(load, tmp_path):
  curves = load("curves.py")
  _write(tmp_path, 1, [(10, 5.0), (20, 4.0), (30, 3.5)])
  _write(tmp_path, 2, [(30, 3.0), (40, 2.0)])
  # Killed while writing: what is cut off is left out.
  last = tmp_path / "tensorboard" / "events.out.2"
  last.write_bytes(last.read_bytes()[:-3])
  steps, values = curves.read(tmp_path)["loss"]
  assert steps.tolist() == [10, 20, 30]
  assert values.tolist() == [5.0, 4.0, 3.0]
  with pytest.raises(ValueError, match="no tensorboard/events"):
    curves.read(tmp_path / "part")


def test_curves_as_a_picture(load, tmp_path):
  pytest.importorskip("matplotlib")
  curves = load("curves.py")
  run = {"a": (np.arange(3), np.ones(3)), "b": (np.arange(3), np.zeros(3))}
  path = tmp_path / "curves.png"
  curves.draw(
    path,
    {"one": run, "other": {"a": run["b"]}},
    {"both": ["a", "b"], "a": ["a"]},
    levels={"a": {"chance": 0.5}},
  )
  assert path.stat().st_size > 1000


def test_chance(load):
  guessed = load("oasis_c/run.py").chance(np.array([6, 3, 0, 1]))
  assert guessed["most frequent class"] == pytest.approx(
    {"miou": 0.6 / 3, "pixel_accuracy": 0.6}
  )
  # A class of frequency f: f^2 hits, f + f - f^2 in the union.
  by_frequency = [f / (2 - f) for f in (0.6, 0.3, 0.1)]
  assert guessed["drawn by frequency"] == pytest.approx(
    {
      "miou": sum(by_frequency) / 3,
      "pixel_accuracy": 0.36 + 0.09 + 0.01,
    }
  )
  assert guessed["drawn evenly"]["pixel_accuracy"] == pytest.approx(0.25)


def test_gradient_energy(load):
  energy = load("orp_alpha/run.py").gradient_energy
  flat = np.full((8, 8, 3), 77, np.uint8)
  assert energy(flat) == 0
  columns = flat.copy()
  columns[:, ::2] += 10
  # Every horizontal difference is 10 in luma, no vertical one.
  assert energy(columns) == pytest.approx(100)
  assert energy(columns.transpose(1, 0, 2)) == pytest.approx(100)
