"""Files of every format version so far, decoded by today's decoder."""

import functools
import hashlib
import json
import pathlib

import numpy as np
import pytest

from egic_jax import images
from egic_jax.bitstream import codec, container, model_file, quality

_FOLDER = pathlib.Path(__file__).parents[1] / "fixtures" / "vectors"
_VECTORS = [
  (version.name, name)
  for version in sorted(_FOLDER.glob("version_*"))
  for name in json.loads((version / "vectors.json").read_text())
]
# Float32 sums are taken in another order elsewhere: a value next to a rounding
# boundary may come out one level off. Symbols may not.
_ROUNDED_OTHERWISE = 0.01


@functools.cache
def _codec(version: str) -> codec.ImageCodec:
  model = model_file.load_model(_FOLDER / version / "model.safetensors")
  return codec.ImageCodec.from_model(model)


@pytest.mark.parametrize("version, name", _VECTORS)
def test_decodes_to_what_it_did(version, name):
  folder = _FOLDER / version
  expected = json.loads((folder / "vectors.json").read_text())[name]
  data = (folder / f"{name}.egic").read_bytes()
  assert hashlib.sha256(data).hexdigest() == expected["sha256"]
  facts = container.inspect(data)
  assert facts["version"] == int(version.removeprefix("version_"))
  for field in ("height", "width", "tiles"):
    assert facts[field] == expected[field]
  assert facts.get("quality_code") == expected.get("quality_code")
  header = container.unpack(data)
  assert header.symbol_checksum == expected["symbol_checksum"]

  symbols = _codec(version).decode_symbols(data)
  assert symbols.checksum() == expected["symbol_checksum"] or facts["tiles"] > 1
  digest = hashlib.sha256()
  for part in (symbols.z, *symbols.y):
    digest.update(part.astype("<i4").tobytes())
  assert digest.hexdigest() == expected["symbols_sha256"]

  picture = _codec(version).decode(data, expected["alpha"]).astype(int)
  before = images.read(folder / f"{name}.png").astype(int)
  assert picture.shape == before.shape
  difference = np.abs(picture - before)
  assert difference.max() <= 1
  assert np.mean(difference > 0) <= _ROUNDED_OTHERWISE


def test_vectors_cover_what_there_is():
  """Versions, tiles, sizes, alpha, quality; each picture is more than one colour."""
  versions = {version for version, _ in _VECTORS}
  assert f"version_{container.VERSION}" in versions
  listed = json.loads(
    (_FOLDER / f"version_{container.VERSION}" / "vectors.json").read_text()
  ).values()
  assert {entry["tiles"] for entry in listed} == {1, 2, 3}
  assert {entry["alpha"] for entry in listed} == {0.0, 1.0}
  codes = {entry["quality_code"] for entry in listed}
  assert {1, quality.to_code(None, 4), 255} < codes and len(codes) > 6
  # Symbols beyond the smallest tables, which escape them.
  assert max(entry["largest_symbol"] for entry in listed) > 20
