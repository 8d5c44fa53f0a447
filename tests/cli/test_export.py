"""`egic export`, with the reading of checkpoints left out."""

import pytest
from commands_model import CONFIG

from egic_jax.bitstream import model_file
from egic_jax.cli import main
from egic_jax.models import codec
from egic_jax.training import checkpoints


@pytest.fixture
def params(monkeypatch):
  params = {"codec": codec.init_codec_params(CONFIG, 0)}
  monkeypatch.setattr(
    checkpoints, "load_parameters", lambda path: (CONFIG, params, 12)
  )
  return params


def test_whole_and_half(params, tmp_path, capsys):
  sizes = {}
  for half in (False, True):
    path = tmp_path / f"{half}.safetensors"
    arguments = ["export", str(tmp_path), "--to", str(path)]
    assert main.main(arguments + ["--half"] * half) == 0
    sizes[half] = path.stat().st_size
    model = model_file.load_model(path)
    expected = model_file.build_model(CONFIG, params, half=half)
    assert model.half == half and model.metadata == {"step": "12"}
    assert model.fingerprint == expected.fingerprint
    line = capsys.readouterr().out
    assert f"model {model.fingerprint.hex()}, step 12" in line
    assert f"{sizes[half]:,} bytes" in line
  assert sizes[True] < 0.8 * sizes[False]


def test_too_large_for_half(params, tmp_path, capsys):
  params["codec"]["analysis"]["patch_embedding"]["bias"][0] = 1e5
  path = tmp_path / "m.safetensors"
  arguments = ["export", str(tmp_path), "--to", str(path), "--half"]
  assert main.main(arguments) == 1
  error = capsys.readouterr().err
  assert "patch_embedding/bias holds 100000" in error
  assert len(error.splitlines()) == 1 and not path.exists()
