"""The commands as a person uses them, with a model that compiles quickly."""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import official_weights
import pytest
from commands_model import CONFIG, save_model
from PIL import Image

import egic_jax
from egic_jax import images
from egic_jax.bitstream import model_file
from egic_jax.cli import main, models
from egic_jax.interop import official, official_discriminator
from egic_jax.models import codec, presets
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import discriminator_file


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
  return save_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def picture(tmp_path):
  rng = np.random.default_rng(0)
  image = np.kron(
    rng.integers(0, 256, (8, 9, 3), np.uint8), np.ones((8, 8, 1), np.uint8)
  )
  path = tmp_path / "picture.png"
  images.write(path, image[:60, :70])
  return path


def egic(*argv):
  return main.main([str(a) for a in argv])


def test_there_and_back(picture, model_path, tmp_path, capsys):
  coded = tmp_path / "picture.egic"
  back = tmp_path / "back.png"
  assert egic("compress", picture, "--model", model_path) == 0
  assert coded.stat().st_size > 23
  assert egic("decompress", coded, "-o", back, "--model", model_path) == 0
  decoded = images.read(back)
  assert decoded.shape == (60, 70, 3)
  codec_ = egic_jax.load_model(model_path)
  expected = egic_jax.decode(
    codec_, egic_jax.encode(codec_, images.read(picture))
  )
  np.testing.assert_array_equal(decoded, expected)
  report = capsys.readouterr().err
  assert "70x60" in report and "bpp" in report


def test_alpha_changes_the_picture_and_not_the_file(
  picture, model_path, tmp_path
):
  coded = tmp_path / "a.egic"
  assert egic("compress", picture, "-o", coded, "--model", model_path) == 0
  outputs = []
  for alpha in ("0", "0.5", "1"):
    back = tmp_path / f"{alpha}.png"
    code = egic(
      "decompress", coded, "-o", back, "--alpha", alpha, "--model", model_path
    )
    assert code == 0
    outputs.append(images.read(back).astype(float))
  mse, half, gan = outputs
  assert np.abs(mse - gan).max() > 5
  inside = (np.minimum(mse, gan) > 0) & (np.maximum(mse, gan) < 255)
  assert inside.mean() > 0.5
  np.testing.assert_allclose(half[inside], ((mse + gan) / 2)[inside], atol=1.01)


def test_precision_reaches_the_decoder(picture, model_path, tmp_path):
  coded = tmp_path / "a.egic"
  assert egic("compress", picture, "-o", coded, "--model", model_path) == 0
  outputs = []
  for precision in ("float32", "bfloat16"):
    out = ("-o", tmp_path / f"{precision}.png", "--model", model_path)
    assert egic("decompress", coded, *out, "--precision", precision) == 0
    outputs.append(images.read(out[1]))
    opened = egic_jax.load_model(model_path, precision=precision)
    decoded = egic_jax.decode(opened, coded.read_bytes())
    np.testing.assert_array_equal(decoded, outputs[-1])
  assert 0 < (outputs[0] != outputs[1]).mean() < 0.5


def test_precision_reaches_the_encoder(
  picture, model_path, tmp_path, monkeypatch
):
  opened_in, open_codec = [], models.open_codec

  def open_(name, precision):
    opened_in.append(precision)
    return open_codec(name, precision)

  monkeypatch.setattr(models, "open_codec", open_)
  for precision in ("float32", "bfloat16"):
    coded = tmp_path / f"{precision}.egic"
    out = ("-o", coded, "--model", model_path)
    assert egic("compress", picture, *out, "--precision", precision) == 0
    opened = egic_jax.load_model(model_path, precision=precision)
    image = images.read(picture)
    assert egic_jax.encode(opened, image) == coded.read_bytes()
  # By the command, then by load_model.
  assert opened_in == ["float32"] * 2 + ["bfloat16"] * 2
  out = ("-o", tmp_path / "default.egic", "--model", model_path)
  assert egic("compress", picture, *out) == 0
  egic_jax.load_model(model_path)
  assert opened_in[4:] == ["auto"] * 2


def test_many_files_into_a_directory_and_one_that_fails(
  picture, model_path, tmp_path, capsys
):
  broken = tmp_path / "broken.jpg"
  broken.write_bytes(b"no picture")
  other = tmp_path / "other.png"
  images.write(other, images.read(picture)[:33])
  out = tmp_path / "coded"
  code = egic(
    "compress", picture, broken, other, "-o", out, "--model", model_path
  )
  assert code == 1
  assert sorted(os.listdir(out)) == ["other.egic", "picture.egic"]
  errors = [
    line for line in capsys.readouterr().err.splitlines() if "error" in line
  ]
  assert len(errors) == 1 and "broken.jpg" in errors[0]


def test_outputs_are_not_replaced_without_force(
  picture, model_path, tmp_path, capsys
):
  target = tmp_path / "taken.egic"
  target.write_bytes(b"precious")
  args = ("compress", picture, "-o", target, "--model", model_path)
  assert egic(*args) == 1
  assert target.read_bytes() == b"precious"
  assert "exists already" in capsys.readouterr().err
  assert egic(*args, "-f") == 0
  assert target.read_bytes()[:4] == b"EGIC"
  # The default output of decompress would be the original photograph.
  coded = picture.with_suffix(".egic")
  coded.write_bytes(target.read_bytes())
  before = picture.read_bytes()
  assert egic("decompress", coded, "--model", model_path) == 1
  assert picture.read_bytes() == before


def test_outputs_that_collide_are_refused(
  picture, model_path, tmp_path, capsys
):
  twin = picture.with_suffix(".bmp")
  images.write(twin, images.read(picture))
  assert egic("compress", picture, twin, "--model", model_path) == 1
  assert "would both become" in capsys.readouterr().err


def test_standard_input_and_output(
  picture, model_path, monkeypatch, capsysbinary
):
  class Stdin:
    buffer = io.BytesIO(picture.read_bytes())

  monkeypatch.setattr(sys, "stdin", Stdin)
  assert egic("compress", "-", "-o", "-", "--model", model_path) == 0
  coded = capsysbinary.readouterr().out
  assert coded[:4] == b"EGIC"
  Stdin.buffer = io.BytesIO(coded)
  assert egic("decompress", "-", "-o", "-", "--model", model_path) == 0
  png = capsysbinary.readouterr().out
  assert Image.open(io.BytesIO(png)).size == (70, 60)


def test_info_with_and_without_a_model(
  picture, model_path, tmp_path, capsys, monkeypatch
):
  monkeypatch.delenv("EGIC_MODEL", raising=False)
  coded = tmp_path / "a.egic"
  egic("compress", picture, "-o", coded, "--model", model_path)
  size = coded.stat().st_size
  capsys.readouterr()
  assert egic("info", coded) == 0
  text = capsys.readouterr().out
  assert "70 x 60" in text and f"{size:,} bytes" in text
  assert egic("info", coded, "--json", "--model", model_path) == 0
  facts = json.loads(capsys.readouterr().out)
  parts = facts["z_bytes"] + sum(facts["y_bytes"])
  assert len(facts["y_bytes"]) == CONFIG.num_slices
  assert parts == pytest.approx(facts["payload_bytes"], abs=5)
  assert facts["bpp"] == pytest.approx(8 * size / (60 * 70))


def test_evaluate_tells_real_and_estimated_rates(
  picture, model_path, tmp_path, capsys
):
  folder = tmp_path / "pictures"
  folder.mkdir()
  rng = np.random.default_rng(1)
  images.write(
    folder / "large.png", rng.integers(0, 256, (170, 180, 3), np.uint8)
  )
  images.write(folder / "small.png", images.read(picture))
  report = tmp_path / "report.json"
  saved = tmp_path / "beside"
  code = egic(
    "evaluate", "--images", folder, "--model", model_path,
    "--json", report, "--save", saved, "--precision", "bfloat16",
  )  # fmt: skip
  assert code == 0
  facts = json.loads(report.read_text())
  assert facts["precision"] == "bfloat16"
  large, small = facts["pictures"]
  assert (large["name"], small["name"]) == ("large.png", "small.png")
  for row in (large, small):
    pixels = row["width"] * row["height"]
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / pixels)
    real, estimate = row["bytes"], row["estimated_bpp"] * pixels / 8
    assert abs(real - estimate) < 0.005 * estimate + 64
  assert small["ms_ssim"] is None and 0 <= large["ms_ssim"] <= 1
  assert facts["mean"]["psnr"] == pytest.approx(
    (large["psnr"] + small["psnr"]) / 2
  )
  assert images.read(saved / "small.png").shape == (60, 70 + 8 + 70, 3)
  output = capsys.readouterr()
  assert "too small for MS-SSIM" in output.err
  assert output.out.splitlines()[-1].startswith("mean")


@pytest.mark.parametrize(
  "argv,message",
  [
    (["compress", "none.png"], "none.png"),
    (["decompress", "damaged.egic", "-o", "x.png"], "damaged"),
    (["decompress", "foreign.egic", "-o", "x.png"], "not an .egic file"),
    (["decompress", "ok.egic", "-o", "x.xyz"], "unknown suffix"),
    (["decompress", "ok.egic", "-o", "x.png", "--alpha", "2"], "alpha"),
    (["decompress", "ok.egic", "-o", "none/x.png"], "none/x.png"),
    (["info", "foreign.egic"], "not an .egic file"),
    (["evaluate", "--images", "empty"], "no pictures"),
    (["export", "nowhere", "--to", "m"], "nowhere"),
  ],
)
def test_errors_are_one_line_and_exit_code_1(
  argv, message, picture, model_path, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  os.mkdir("empty")
  egic("compress", picture, "-o", "ok.egic", "--model", model_path)
  data = bytearray(pathlib.Path("ok.egic").read_bytes())
  data[-6] ^= 1
  pathlib.Path("damaged.egic").write_bytes(data)
  pathlib.Path("foreign.egic").write_bytes(b"\x89PNG not ours")
  capsys.readouterr()
  model = [] if argv[0] in ("info", "export") else ["--model", model_path]
  assert egic(*argv, *model) == 1
  error = capsys.readouterr().err.strip()
  assert message in error and len(error.splitlines()) == 1
  assert error.startswith(f"egic {argv[0]}: error: ")
  assert not pathlib.Path("x.png").exists()


def test_a_file_of_another_model_is_refused(
  picture, model_path, tmp_path, capsys
):
  other = tmp_path / "other.safetensors"
  params = {"codec": codec.init_codec_params(CONFIG, 1)}
  model_file.save_model(other, model_file.build_model(CONFIG, params))
  coded = tmp_path / "a.egic"
  egic("compress", picture, "-o", coded, "--model", model_path)
  capsys.readouterr()
  assert (
    egic("decompress", coded, "-o", tmp_path / "x.png", "--model", other) == 1
  )
  assert "model" in capsys.readouterr().err
  assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "foreign.safetensors"])
def test_a_model_that_is_none(name, picture, tmp_path, capsys):
  (tmp_path / "foreign.safetensors").write_bytes(b"x" * 100)
  assert egic("compress", picture, "--model", tmp_path / name) == 1
  error = capsys.readouterr().err.strip()
  assert name in error and len(error.splitlines()) == 1


def test_official_weights_become_a_model_that_codes(picture, tmp_path, capsys):
  tiny = presets.get_preset("tiny")
  rng = np.random.default_rng(0)
  arrays = {
    name: (0.05 * rng.standard_normal(shape)).astype(np.float32)
    for name, shape in official.names(tiny, with_orp=True).items()
  }
  weights, model = tmp_path / "w.npz", tmp_path / "m.safetensors"
  np.savez(weights, **arrays)
  code = egic("import-official", weights, "--to", model, "--preset", "tiny")
  assert code == 0 and "codec and ORP" in capsys.readouterr().out
  loaded = model_file.load_model(model)
  assert loaded.config == tiny and set(loaded.params) == {"codec", "orp"}
  # The full size has other arrays: all are listed.
  assert egic("import-official", weights, "--to", tmp_path / "n") == 1
  error = capsys.readouterr().err
  assert "missing" in error and "misshapen" in error
  assert not (tmp_path / "n").exists()


def test_the_official_discriminator_becomes_a_file_to_start_from(
  tmp_path, capsys
):
  tiny = discriminator_presets.get_preset("tiny")
  arrays = {
    name: official_weights.array(name, shape)
    for name, shape in official_discriminator.names(tiny).items()
  }
  weights, path = tmp_path / "w.npz", tmp_path / "d.safetensors"
  np.savez(weights, **arrays)
  arguments = ("--to", path, "--preset", "tiny")
  assert egic("import-official", weights, *arguments, "--discriminator") == 0
  assert "discriminator of 133 classes" in capsys.readouterr().out
  config, params, source = discriminator_file.load(path)
  assert config == tiny and f"{len(arrays)} arrays" in source
  back = official_discriminator.to_official({"discriminator": params}, tiny)
  assert all(np.array_equal(back[name], arrays[name]) for name in arrays)

  # Taken for the other: which is which, and nothing is written.
  codec_weights = tmp_path / "c.npz"
  np.savez(codec_weights, **{"analysis_transform/x": np.zeros(1)})
  for wrong, flags, hint in (
    (weights, (), "give --discriminator"),
    (codec_weights, ("--discriminator",), "leave out --discriminator"),
    (tmp_path / "none.npz", ("--discriminator",), "no such file"),
  ):
    arguments = ("import-official", wrong, "--to", tmp_path / "n", *flags)
    assert egic(*arguments, "--preset", "tiny") == 1
    error = capsys.readouterr().err.strip()
    assert hint in error and len(error.splitlines()) == 1
    assert not (tmp_path / "n").exists()


def test_usage_and_unknown_commands(capsys):
  assert egic() == 0
  assert "compress" in capsys.readouterr().out
  assert egic("compres") == 2
  assert "no command 'compres'" in capsys.readouterr().err


def test_a_fresh_process_decodes_without_training_code(
  picture, model_path, tmp_path
):
  coded, back = tmp_path / "a.egic", tmp_path / "back.png"
  egic("compress", picture, "-o", coded, "--model", model_path)
  program = f"""
import sys
from egic_jax.cli import main
code = main.main(["decompress", {str(coded)!r}, "-o", {str(back)!r},
                  "--model", {model_path!r}])
heavy = {{"tensorflow", "torch", "orbax", "grain", "tensorflow_datasets", "clu",
          "optax", "ml_collections"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else code)
"""
  subprocess.run([sys.executable, "-c", program], check=True)
  codec_ = egic_jax.load_model(model_path)
  expected = egic_jax.decode(codec_, coded.read_bytes())
  np.testing.assert_array_equal(images.read(back), expected)


def test_importing_the_package_imports_nothing_heavy():
  program = (
    "import sys, egic_jax; sys.exit(' '.join({'jax', 'tensorflow', 'torch'}"
    " & set(sys.modules)) or 0)"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("command", ["--help", "compress --help", "info"])
def test_a_reader_that_is_gone_is_no_error(command, picture, tmp_path):
  words = command.split()
  if command == "info":
    # Of several files: the next one is not to be told about, either.
    words += [str(tmp_path / name) for name in ("a.egic", "b.egic")]
    assert egic("compress", picture, "-o", words[1]) == 0
    assert egic("compress", picture, "-o", words[2]) == 0
  reader, writer = os.pipe()
  os.close(reader)
  try:
    result = subprocess.run(
      [sys.executable, "-m", "egic_jax", *words],
      stdout=writer,
      stderr=subprocess.PIPE,
      text=True,
    )
  finally:
    os.close(writer)
  assert result.stderr == ""
  # Python's own complaint about it would be 120; argparse finds all well.
  assert result.returncode in (0, 1)
