"""Commands without --model: shipped models, several rates."""

import json

import numpy as np
import pytest
from commands_model import save_model

import egic_jax
from egic_jax import images
from egic_jax.bitstream import container
from egic_jax.cli import main
from egic_jax.shipped import catalog


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
  """A shipped model of one rate, and a newer one for several, the default."""
  folder = tmp_path_factory.mktemp("shelf")
  save_model(folder / "old.safetensors")
  save_model(
    folder / "new.safetensors",
    rate_levels=8,
    bpp="[0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6]",
    description="Several rates.",
  )
  (folder / "default.txt").write_text("new\n")
  return folder


@pytest.fixture(autouse=True)
def environment(shelf, monkeypatch):
  monkeypatch.setenv(catalog.VARIABLE, str(shelf))
  monkeypatch.delenv("EGIC_MODEL", raising=False)


@pytest.fixture
def picture(tmp_path):
  rng = np.random.default_rng(0)
  path = tmp_path / "picture.png"
  images.write(path, rng.integers(0, 256, (60, 70, 3), np.uint8))
  return path


def egic(*argv):
  return main.main([str(a) for a in argv])


def test_models_are_listed(capsys, monkeypatch, tmp_path):
  assert egic("models") == 0
  text = capsys.readouterr().out
  assert "new (default)\n" in text and "old\n" in text
  assert "quality 1 to 8, 0.050 to 0.600 bpp" in text and "one rate" in text
  assert "Several rates." in text
  for model in catalog.models():
    assert model.fingerprint in text and f"{model.parameters:,}" in text
  assert egic("models", "--json") == 0
  rows = json.loads(capsys.readouterr().out)
  assert [(r["name"], r["default"], r["levels"]) for r in rows] == [
    ("new", True, 8),
    ("old", False, 0),
  ]
  monkeypatch.setenv(catalog.VARIABLE, str(tmp_path))
  assert egic("models") == 0
  assert "no model comes" in capsys.readouterr().out


def test_there_and_back_without_a_model(picture, tmp_path, capsys):
  new, old = tmp_path / "new.egic", tmp_path / "old.egic"
  assert egic("compress", picture, "-o", new) == 0
  assert egic("compress", picture, "-o", old, "--model", "old") == 0
  # One call for files of two models.
  out = tmp_path / "back"
  assert egic("decompress", new, old, "-o", out) == 0
  capsys.readouterr()
  for name, version in (("new", 3), ("old", 2)):
    data = (tmp_path / f"{name}.egic").read_bytes()
    assert container.inspect(data)["version"] == version
    codec = egic_jax.load_model(name)
    assert data == egic_jax.encode(codec, images.read(picture))
    decoded = egic_jax.decode(egic_jax.load_model_of(data), data)
    np.testing.assert_array_equal(images.read(out / f"{name}.png"), decoded)
    narrow = egic_jax.load_model_of(data, precision="bfloat16")
    assert (egic_jax.decode(narrow, data) != decoded).any()
    assert egic("info", tmp_path / f"{name}.egic") == 0
    text = capsys.readouterr().out
    assert f"({name})" in text and "slice" not in text
    assert ("quality  4.00" in text) == (name == "new")
    assert egic("info", "--parts", tmp_path / f"{name}.egic") == 0
    assert "y slice 0" in capsys.readouterr().out


def test_rates_on_the_command_line(picture, tmp_path, capsys):
  def compress(*arguments):
    capsys.readouterr()
    target = tmp_path / "a.egic"
    code = egic("compress", picture, "-o", target, "-f", *arguments)
    assert code == 0
    return target.read_bytes(), capsys.readouterr().err

  low, text = compress("--quality", "1")
  assert "quality 1.00" in text and container.inspect(low)["quality_code"] == 1
  high, text = compress("--quality", 8)
  assert len(high) > 2 * len(low)
  target = (len(low) + len(high)) // 2
  data, text = compress("--bytes", target)
  assert 0.97 * target < len(data) <= target and f"{len(data):,} bytes" in text
  bpp = 8 * target / (60 * 70)
  data, _ = compress("--bpp", bpp)
  assert len(data) == pytest.approx(target, rel=0.02)
  data, text = compress("--bytes", 10**6)
  assert data == high and "quality 8.00, the highest" in text
  data, text = compress("--bpp", 24)
  assert data == high and "quality 8.00, the highest" in text


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--quality", "9"], "must lie in [1, 8]"),
    (["--quality", "nan"], "must lie in [1, 8]"),
    (["--bytes", "24"], ": --bytes is 24, but this picture takes"),
    (["--bytes", "0"], ": --bytes is 0; it must be above 0"),
    (["--bpp", "0.001"], ": --bpp is 0.001, but this picture takes"),
    (["--bpp", "0"], ": --bpp is 0.0; it must be above 0"),
    (["--model", "old", "--quality", "2"], "one rate only"),
    (["--model", "old", "--bpp", "1"], "one rate only"),
    (["--model", "older"], "there are: new, old"),
  ],
)
def test_errors_are_one_line(picture, tmp_path, capsys, arguments, message):
  out = tmp_path / "a.egic"
  assert egic("compress", picture, "-o", out, *arguments) == 1
  error = capsys.readouterr().err.strip()
  assert message in error and len(error.splitlines()) == 1
  assert "max_bytes" not in error
  assert not out.exists()


def test_one_way_to_say_the_rate(picture, capsys):
  with pytest.raises(SystemExit) as caught:
    egic("compress", picture, "--bpp", 1, "--bytes", 100)
  assert caught.value.code == 2
  assert "not allowed with" in capsys.readouterr().err


def test_files_of_a_model_that_is_not_there(
  picture, tmp_path, capsys, monkeypatch
):
  coded = tmp_path / "a.egic"
  assert egic("compress", picture, "-o", coded) == 0
  fingerprint = catalog.find("new").fingerprint
  (tmp_path / "empty").mkdir()
  monkeypatch.setenv(catalog.VARIABLE, str(tmp_path / "empty"))
  capsys.readouterr()
  for command in (
    ["decompress", "-o", tmp_path / "b.png"],
    ["info", "--parts"],
  ):
    assert egic(*command, coded) == 1
    error = capsys.readouterr().err.strip()
    assert f"{fingerprint}, which is none of the shipped" in error
    assert len(error.splitlines()) == 1
  assert egic("info", coded) == 0
  text = capsys.readouterr().out
  assert "quality  code 110 of 255" in text and fingerprint in text
  assert egic("compress", picture, "-f") == 1
  error = capsys.readouterr().err.strip()
  assert "--model" in error and len(error.splitlines()) == 1


def test_evaluate_at_several_qualities(picture, tmp_path, capsys):
  folder, report = tmp_path / "pictures", tmp_path / "report.json"
  folder.mkdir()
  images.write(folder / "a.png", images.read(picture))
  images.write(folder / "b.png", images.read(picture)[::-1])
  arguments = ("evaluate", "--images", folder, "--json", report)
  saved = tmp_path / "saved"
  assert egic(*arguments, "--quality", "1,4.5,8", "--save", saved) == 0
  rows = capsys.readouterr().out.splitlines()
  names = ["picture", "quality 1.00", "quality 4.50", "quality 8.00"]
  assert [row[:28].strip() for row in rows] == names
  facts = json.loads(report.read_text())
  runs = facts["qualities"]
  assert [run["quality"] for run in runs] == pytest.approx(
    [1, 4.5, 8], abs=0.02
  )
  bpps = [run["mean"]["bpp"] for run in runs]
  assert bpps == sorted(bpps) and bpps[-1] > 2 * bpps[0]
  for run, row in zip(runs, rows[1:], strict=True):
    assert [p["name"] for p in run["pictures"]] == ["a.png", "b.png"]
    assert f" {run['mean']['bpp']:.4f} " in row
  assert len(list(saved.iterdir())) == 6

  assert egic(*arguments) == 0
  rows = capsys.readouterr().out.splitlines()
  names = ["picture", "a.png", "b.png", "mean"]
  assert [row[:28].strip() for row in rows] == names
  (run,) = json.loads(report.read_text())["qualities"]
  assert run["quality"] == pytest.approx(4, abs=0.02)
  assert egic(*arguments, "--quality", "1,9") == 1
  assert "must lie in [1, 8]" in capsys.readouterr().err
