"""What the scripts in experiments/ compute themselves."""

import ast
import importlib.util
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX

from egic_jax.models import swin
from egic_jax.ops import gpu_kernel

_FOLDER = pathlib.Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture(scope="module")
def load():
  """Imports a script of experiments/, which find their neighbours by path."""
  before = list(sys.path)

  def load(name):
    path = _FOLDER / name
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(
      "study_" + name.removesuffix(".py").replace("/", "_"), path
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  yield load
  sys.path[:] = before


def test_the_comparison_starts_where_this_package_is_not():
  # CompressAI's rows are timed by another Python.
  path = _FOLDER.parent / "benchmarks" / "against_others.py"
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      assert "egic_jax" not in ast.unparse(node)


def test_a_cpu_that_rounds_as_a_gpu(load):
  as_accelerator = load("bfloat16_training/as_accelerator.py")
  found = as_accelerator._as_gpu(
    "cpu", gpu_kernel.ONE_DEVICE, False, jnp.bfloat16
  )
  assert found == swin.Execution(entropy_dtype=jnp.bfloat16)
  wide = as_accelerator._as_gpu(
    "cpu", gpu_kernel.ONE_DEVICE, False, jnp.float32
  )
  assert wide == swin.Execution()


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
  energy = load("scores.py").gradient_energy
  flat = np.full((8, 8, 3), 77, np.uint8)
  assert energy(flat) == 0
  columns = flat.copy()
  columns[:, ::2] += 10
  # Every horizontal difference is 10 in luma, no vertical one.
  assert energy(columns) == pytest.approx(100)
  assert energy(columns.transpose(1, 0, 2)) == pytest.approx(100)


def _points(qualities, log_rates):
  return [
    {"psnr": float(q), "bpp": float(10**r)}
    for q, r in zip(qualities, log_rates, strict=True)
  ]


# PCHIP by hand, in tenths: the slopes between the points are 1, 5, 5; at the
# points 0 (the end's three-point formula gives -1, of the wrong sign), 5/3 (the
# harmonic mean), 5, 5.
BENT = _points([20, 21, 22, 23], np.array([0, 1, 6, 11]) / 10 - 3)


def test_rate_difference(load):
  study = load("rate_difference.py")
  grid = np.linspace(20, 35, 6)
  anchor = _points(grid, grid / 10 - 3)
  # One point is compared where it lies, without the package.
  fifth_less = _points(grid, grid / 10 - 3 + np.log10(0.8))
  one = study.rate_difference(anchor, fifth_less[2:3], "psnr")
  assert one == pytest.approx(-20)
  assert study.rate_difference(anchor, _points([36], [0]), "psnr") is None
  falling = _points(grid, 3 - grid / 10)
  assert study.rate_difference(anchor, falling, "psnr") is None
  assert study.rate_difference(falling, anchor[:1], "psnr") is None
  # Half way from 21 to 22, in tenths: (1 + 6) / 2 + (5/3 - 5) / 8 = 37/12.
  (on_bent,) = _points([21.5], [37 / 120 - 3])
  assert study.rate_difference(BENT, [on_bent], "psnr") == pytest.approx(
    0, abs=1e-9
  )


def test_rate_difference_of_curves(load):
  pytest.importorskip("bjontegaard")
  study = load("rate_difference.py")
  grid = np.linspace(20, 35, 6)
  anchor = _points(grid, grid / 10 - 3)
  fifth_less = _points(grid, grid / 10 - 3 + np.log10(0.8))
  assert study.rate_difference(anchor, fifth_less, "psnr") == pytest.approx(-20)
  assert study.rate_difference(
    anchor[::-1], fifth_less, "psnr"
  ) == pytest.approx(-20)
  # The difference of the logarithms rises from 0 at 25 to 0.1 at 35, where both
  # have points: 0.05 in the mean.
  other = np.linspace(25, 40, 4)
  steeper = _points(other, other / 10 - 3 + 0.01 * (other - 25))
  expected = 100 * (10**0.05 - 1)
  assert study.rate_difference(anchor, steeper, "psnr") == pytest.approx(
    expected
  )
  assert study.common_range(anchor, steeper, "psnr") == (25, 35)
  # Over 3 dB, in tenths: 12.5 by trapezia, less 5/12 for the slopes at the ends;
  # the straight line is 4.5. A cubic polynomial would be 12.
  straight = _points([20, 21, 22, 23], [-3, -2.9, -2.8, -2.7])
  expected = 100 * (10 ** ((12.5 - 5 / 12 - 4.5) / 30) - 1)
  assert study.rate_difference(straight, BENT, "psnr") == pytest.approx(
    expected
  )
  far = _points(other + 50, other)
  assert study.rate_difference(anchor, far, "psnr") is None


def test_scores(load):
  scores = load("scores.py")
  rng = np.random.default_rng(0)
  noise = rng.integers(64, 192, (176, 180, 3), np.uint8)
  same = scores.score(noise, noise, 990)
  assert same["bpp"] == pytest.approx(0.25)
  assert same["gradient"] == same["ms_ssim"] == 1 and same["detail_db"] == 0
  half = (64 + noise // 2).astype(np.uint8)
  softer = scores.score(noise, half, 1980)
  # Half the contrast: a quarter of the energy, up to rounding.
  assert softer["gradient"] == pytest.approx(0.25, abs=0.01)
  assert softer["detail_db"] == pytest.approx(-6.02, abs=0.1)
  mean = scores.mean([softer, {**softer, "ms_ssim": np.nan, "bpp": 1.5}])
  assert mean["bpp"] == pytest.approx(1.0)
  assert mean["ms_ssim"] == softer["ms_ssim"]
  assert mean["ms_ssim_db"] == pytest.approx(
    -10 * np.log10(1 - softer["ms_ssim"])
  )


def test_largest_file_within(load):
  (jpeg,) = (c for c in load("classical.py").CODECS if c.name == "JPEG")
  rows, columns = np.mgrid[:64, :64]
  picture = np.stack([rows * 4, columns * 4, rows + columns], -1)
  picture = picture.astype(np.uint8)
  sizes = [len(jpeg.encode(picture, q)) for q in range(1, 96)]
  limit = (sizes[0] + sizes[-1]) // 2
  data, fits = jpeg.largest_within(picture, limit)
  assert fits and len(data) == max(s for s in sizes if s <= limit)
  assert jpeg.decode(data).shape == picture.shape
  assert jpeg.largest_within(picture, sizes[0] - 1) == (
    jpeg.encode(picture, 1),
    False,
  )


def test_a_codec_that_is_missing_is_a_line(load, monkeypatch, capsys):
  classical = load("classical.py")
  there = next(c for c in classical.CODECS if c.name == "JPEG")
  gone = [
    classical.Classical("X", "X", {}, (1,), plugin="no_such_plugin"),
    classical.Classical("AVIF", "AVIF", {}, (1,)),
  ]
  monkeypatch.setattr(classical, "CODECS", (*gone, there))
  monkeypatch.setattr(classical.features, "check", lambda name: name == "jpg")
  assert classical.available() == [there]
  assert capsys.readouterr().out.splitlines() == [
    "X is left out: pip install no_such_plugin",
    "AVIF is left out: no avif",
  ]
