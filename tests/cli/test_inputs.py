"""Pictures of every kind go through the commands, decoded in a new process."""

import subprocess
import sys

import numpy as np
import pytest
from commands_model import save_model
from PIL import Image

from egic_jax import images
from egic_jax.bitstream import codec, model_file
from egic_jax.cli import main


def _noise(*shape, dtype=np.uint8):
  rng = np.random.default_rng(sum(shape))
  return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def _write_all(folder):
  """Pictures by name, each with the height and width it is seen at."""
  exif = Image.Exif()
  exif[0x0112] = 6  # Turned a quarter.
  pictures = {
    "pixel.png": (Image.fromarray(_noise(1, 1, 3)), (1, 1)),
    "odd.png": (Image.fromarray(_noise(61, 67, 3)), (61, 67)),
    "line.png": (Image.fromarray(_noise(1, 4000, 3)), (1, 4000)),
    "column.png": (Image.fromarray(_noise(300, 1, 3)), (300, 1)),
    "grey.png": (Image.fromarray(_noise(20, 30)), (20, 30)),
    "alpha.png": (Image.fromarray(_noise(20, 30, 4)), (20, 30)),
    "palette.png": (
      Image.fromarray(_noise(20, 30, 3)).quantize(16),
      (20, 30),
    ),
    "sixteen.png": (Image.fromarray(_noise(20, 30, dtype=np.uint16)), (20, 30)),
    "turned.jpg": (Image.fromarray(_noise(20, 30, 3)), (30, 20)),
  }
  for name, (picture, _) in pictures.items():
    options = {"exif": exif} if name == "turned.jpg" else {}
    picture.save(folder / name, **options)
  return {name: size for name, (_, size) in pictures.items()}


def test_every_kind_comes_back_in_a_fresh_process(tmp_path):
  model = save_model(tmp_path / "model.safetensors")
  sources, coded, back = (tmp_path / n for n in ("in", "coded", "back"))
  sources.mkdir()
  sizes = _write_all(sources)
  paths = [str(sources / name) for name in sizes]
  assert (
    main.main(["compress", *paths, "-o", str(coded), "--model", model]) == 0
  )

  program = """
import json, pathlib, sys
import numpy as np
from egic_jax.bitstream import codec, model_file
from egic_jax import images
from egic_jax.cli import main
model, coded, back, symbols = sys.argv[1:]
files = sorted(str(p) for p in pathlib.Path(coded).iterdir())
code = main.main(["decompress", *files, "-o", back, "--model", model])
coder = codec.ImageCodec.from_model(model_file.load_model(model))
found = {}
for file in files:
  decoded = coder.decode_symbols(pathlib.Path(file).read_bytes())
  parts = [decoded.z, *decoded.y]
  found[pathlib.Path(file).stem] = np.concatenate([p.ravel() for p in parts])
np.savez(symbols, **found)
sys.exit(code)
"""
  symbols = tmp_path / "symbols.npz"
  subprocess.run(
    [sys.executable, "-c", program, model, coded, back, symbols], check=True
  )

  coder = codec.ImageCodec.from_model(model_file.load_model(model))
  with np.load(symbols) as decoded:
    for name, size in sizes.items():
      stem = name.split(".")[0]
      image = images.read(sources / name)
      assert image.shape == (*size, 3)
      encoded = coder.encode_with_parts(image)
      assert encoded.data == (coded / f"{stem}.egic").read_bytes()
      parts = [encoded.symbols.z, *encoded.symbols.y]
      sent = np.concatenate([p.ravel() for p in parts])
      np.testing.assert_array_equal(decoded[stem], sent)
      assert sent.any()
      picture = images.read(back / f"{stem}.png")
      np.testing.assert_array_equal(picture, coder.decode(encoded.data))
      assert picture.shape == (*size, 3)


@pytest.mark.parametrize("change", ["truncated", "flipped", "foreign", "empty"])
def test_a_damaged_file_gives_one_line_and_no_traceback(change, tmp_path):
  """In a process of its own, as a person sees it."""
  model = save_model(tmp_path / "model.safetensors")
  source, coded = tmp_path / "a.png", tmp_path / "a.egic"
  images.write(source, _noise(64, 64, 3))
  main.main(["compress", str(source), "-o", str(coded), "--model", model])
  data = bytearray(coded.read_bytes())
  data = {
    "truncated": data[: len(data) // 2],
    "flipped": data[:40] + bytes([data[40] ^ 16]) + data[41:],
    "foreign": source.read_bytes(),
    "empty": b"",
  }[change]
  coded.write_bytes(data)
  back = tmp_path / "back.png"
  result = subprocess.run(
    [sys.executable, "-m", "egic_jax", "decompress", coded, "-o", back]
    + ["--model", model],
    capture_output=True,
    text=True,
  )
  assert result.returncode == 1
  assert not back.exists() and not result.stdout
  assert len(result.stderr.strip().splitlines()) == 1
  assert "Traceback" not in result.stderr
