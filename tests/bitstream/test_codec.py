import concurrent.futures
import dataclasses
import functools
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from egic_jax import program_store
from egic_jax.bitstream import (
  codec,
  container,
  model_file,
  programs,
  tables,
  windowed,
)
from egic_jax.models import codec as codec_lib

# Of one bucket and a second: every further one compiles some ten programs.
_SIZES = [(1, 1), (37, 53), (64, 64), (65, 130), (1, 200)]


def _assert_equal_symbols(a, b):
  np.testing.assert_array_equal(a.z, b.z)
  for left, right in zip(a.y, b.y, strict=True):
    np.testing.assert_array_equal(left, right)


def _repack(data, **fields):
  """The file with other fields, its checksum right."""
  return container.pack(dataclasses.replace(container.unpack(data), **fields))


@pytest.mark.parametrize("size", _SIZES)
def test_symbols_and_size_come_back(image_codec, picture, size):
  image = picture(*size)
  encoded = image_codec.encode_with_parts(image)
  _assert_equal_symbols(
    image_codec.decode_symbols(encoded.data), encoded.symbols
  )
  decoded = image_codec.decode(encoded.data)
  assert decoded.shape == image.shape and decoded.dtype == np.uint8
  assert image_codec.encode(image) == encoded.data
  (payload,) = container.unpack(encoded.data).payloads
  assert len(encoded.data) - len(payload) <= 32


def test_image_is_the_networks(model, image_codec, picture):
  image = picture(64, 64)
  output = jax.jit(codec_lib.Codec(model.config).apply)(
    {"params": model.params["codec"]}, image[None].astype(np.float32) / 255
  )
  expected = np.clip(np.asarray(output.x_hat[0]) * 255, 0, 255)
  encoded = image_codec.encode_with_parts(image)
  np.testing.assert_array_equal(encoded.symbols.z, output.z_hat)
  y = windowed.analysis(
    model.config,
    functools.partial(
      programs.programs(model.config).analysis, model.params["codec"]
    ),
    image[None],
  )
  np.testing.assert_allclose(y, output.y, atol=1e-4 * np.std(output.y))
  decoded = image_codec.decode(encoded.data)
  assert np.std(decoded) > 1
  # Two programs may round a latent differently; no more than a few.
  assert np.mean(np.abs(decoded - expected) > 0.6) < 0.02


def test_what_is_padded_is_cropped(image_codec, picture):
  image = picture(64, 64)
  whole = image_codec.decode(image_codec.encode(image))
  data = _repack(image_codec.encode(image), height=50, width=63)
  np.testing.assert_array_equal(image_codec.decode(data), whole[:50, :63])


def test_padding_reflects(image_codec):
  image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  assert windowed._reflected(2, 8).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
  assert windowed._reflected(5, 8).tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
  padded = image[np.arange(64)[:, None] % 2, windowed._reflected(3, 64)]
  np.testing.assert_array_equal(
    image_codec.decode_symbols(image_codec.encode(image)).z,
    image_codec.decode_symbols(image_codec.encode(padded)).z,
  )


def test_escaped_symbols_come_back(loud_model, picture):
  loud = codec.ImageCodec.from_model(loud_model)
  encoded = loud.encode_with_parts(picture(64, 64))
  # Estimates, which know no escapes, are far off: many symbols are escaped.
  estimate = loud.estimate_bits(picture(64, 64))["bits"]
  assert estimate > 10 * 8 * len(encoded.data)
  _assert_equal_symbols(loud.decode_symbols(encoded.data), encoded.symbols)


_FRESH_PROCESS = """
import sys
import numpy as np
from egic_jax.bitstream import codec, model_file
model = model_file.load_model(sys.argv[1])
image_codec = codec.ImageCodec.from_model(model)
data = open(sys.argv[2], "rb").read()
symbols = image_codec.decode_symbols(data)
np.savez(sys.argv[3], *symbols.y, z=symbols.z, image=image_codec.decode(data))
loaded = {name.split(".")[0] for name in sys.modules}
loaded |= {".".join(name.split(".")[:2]) for name in sys.modules}
unwanted = {"tensorflow", "torch", "orbax", "grain", "tensorflow_datasets",
            "optax", "egic_jax.training", "egic_jax.data"}
sys.exit(", ".join(sorted(loaded & unwanted)) or None)
"""


def test_fresh_process_gives_the_same(model, image_codec, picture, tmp_path):
  image = picture(37, 53)
  encoded = image_codec.encode_with_parts(image)
  model_path, file_path = tmp_path / "m.safetensors", tmp_path / "a.egic"
  result_path = tmp_path / "result.npz"
  model_file.save_model(model_path, model)
  file_path.write_bytes(encoded.data)
  arguments = [str(p) for p in (model_path, file_path, result_path)]
  done = subprocess.run(
    [sys.executable, "-c", _FRESH_PROCESS, *arguments],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  with np.load(result_path) as result:
    np.testing.assert_array_equal(result["z"], encoded.symbols.z)
    for i, symbols in enumerate(encoded.symbols.y):
      np.testing.assert_array_equal(result[f"arr_{i}"], symbols)
    np.testing.assert_array_equal(
      result["image"], image_codec.decode(encoded.data)
    )


def test_real_bytes_are_the_estimated_ones(image_codec, picture):
  image = picture(64, 64)
  encoded = image_codec.encode_with_parts(image)
  estimate = image_codec.estimate_bits(image)
  assert estimate["bits"] == pytest.approx(
    estimate["z_bits"] + sum(estimate["y_bits"])
  )
  assert abs(8 * len(encoded.data) - estimate["bits"]) < (
    0.005 * estimate["bits"] + 8 * 64
  )
  assert encoded.z_bits == pytest.approx(estimate["z_bits"], rel=1e-3)
  # Scale indices are real in the estimate and rounded in the file, which also
  # says how, and from which table on.
  np.testing.assert_allclose(
    encoded.y_bits, estimate["y_bits"], rtol=0.03, atol=12
  )


def test_inspect_measures_the_parts(image_codec, picture):
  encoded = image_codec.encode_with_parts(picture(64, 64))
  parts = image_codec.inspect(encoded.data)
  assert parts["z_bytes"] == pytest.approx(encoded.z_bits / 8)
  np.testing.assert_allclose(parts["y_bytes"], encoded.y_bits / 8)
  total = parts["z_bytes"] + sum(parts["y_bytes"])
  assert abs(parts["payload_bytes"] - total) <= 1
  assert (parts["height"], parts["width"]) == (64, 64)
  assert parts["fingerprint"] == image_codec.fingerprint.hex()


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_precision_is_of_the_picture_and_not_of_symbols(
  model, image_codec, picture, alpha, tmp_path
):
  # Programs on disk, so that one of the other precision could be taken.
  before = program_store.current()
  assert program_store.use(tmp_path)
  try:
    narrow = codec.ImageCodec.from_model(model, "bfloat16")
    image = picture(50, 70)
    data = image_codec.encode(image)
    narrow_data = narrow.encode(image)
    latents_of = [
      reader._encoder.analyse(image[None], 1, lambda: None).y
      for reader in (narrow, image_codec)
    ]
    rounded = narrow.decode(data, alpha).astype(int)
    deviation = np.abs(rounded - image_codec.decode(data, alpha))
    # Symbols are the file's, whoever made it and whoever reads it.
    symbols = [
      [reader.decode_symbols(file) for reader in (narrow, image_codec)]
      for file in (data, narrow_data)
    ]
  finally:
    program_store._current = before
  for by_narrow, by_wide in symbols:
    for one, other in zip(by_narrow.y, by_wide.y, strict=True):
      np.testing.assert_array_equal(one, other)
  assert 0 < (deviation > 0).mean() < 0.5
  assert deviation.max() <= 3
  assert 0 < np.abs(latents_of[0] - latents_of[1]).max() < 0.5
  # What is coded is rounded otherwise, but hardly ever to another symbol.
  y = [np.concatenate(pair[0].y, axis=-1) for pair in symbols]
  assert np.mean(y[0] != y[1]) < 0.05


def test_analysis_is_in_the_precision_asked_for(model):
  narrow = programs.programs(model.config, "bfloat16")
  image = np.zeros((1, 128, 128, 3), np.uint8)
  valid = (np.int32(2), np.int32(2))
  lowered = narrow.analysis.lower(model.params["codec"], image, valid)
  products = re.findall("dot_general.*bf16", lowered.as_text())
  assert len(products) == 4 * sum(model.config.analysis_depths)
  # z is coded: what it is made of is not rounded.
  y = np.zeros((1, 8, 8, model.config.latent_channels), np.float32)
  lowered = narrow.hyper_analysis.lower(model.params["codec"], y, valid)
  assert "bf16" not in lowered.as_text()


def test_precision_is_that_of_both_ends_of_synthesis(model):
  config = model.config
  narrow = programs.programs(config, "bfloat16")
  codec_params, orp_params = model.params["codec"], model.params["orp"]
  y_hat = np.zeros((1, 8, 8, config.latent_channels), np.float32)
  valid = (np.int32(2), np.int32(2))
  one = narrow.synthesis.lower(codec_params, y_hat, valid)
  both = narrow.synthesis_orp.lower(
    codec_params, orp_params, y_hat, np.float32(0.5), valid
  )
  counts = [
    len(re.findall("dot_general.*bf16", lowered.as_text()))
    for lowered in (one, both)
  ]
  depths = config.analysis_depths
  # Of each block qkv, proj, mlp_in and mlp_out.
  assert counts == [4 * sum(depths), 4 * (sum(depths) + depths[0])]


def test_another_precision_is_refused(model):
  with pytest.raises(ValueError, match="'int8'; it must be one of auto, flo"):
    codec.ImageCodec.from_model(model, "int8")


@pytest.mark.parametrize(
  ("platform", "precision"),
  [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")],
)
def test_precision_unless_told_otherwise(
  model, picture, monkeypatch, platform, precision
):
  with monkeypatch.context() as patch:
    patch.setattr(jax, "default_backend", lambda: platform)
    chosen = programs.resolve_precision("auto")
    assert programs.resolve_precision("float32") == "float32"
  assert chosen == precision
  # And what is chosen is what pictures are made in.
  monkeypatch.setattr(
    programs,
    "resolve_precision",
    lambda asked: chosen if asked == "auto" else asked,
  )
  image, default = picture(50, 70), codec.ImageCodec.from_model(model)
  explicit = codec.ImageCodec.from_model(model, precision)
  assert default.precision == explicit.precision == precision
  data = explicit.encode(image)
  assert default.encode(image) == data
  np.testing.assert_array_equal(default.decode(data), explicit.decode(data))


def test_alpha_mixes_two_outputs(image_codec, picture):
  data = image_codec.encode(picture(64, 64))
  by_alpha = {
    alpha: image_codec.decode(data, alpha).astype(int)
    for alpha in (0.0, 0.5, 1.0)
  }
  assert np.abs(by_alpha[0.0] - by_alpha[1.0]).max() > 3
  middle = (by_alpha[0.0] + by_alpha[1.0]) / 2
  inside = (by_alpha[0.0] % 255 > 0) & (by_alpha[1.0] % 255 > 0)
  assert np.abs(by_alpha[0.5] - middle)[inside].max() <= 1.5
  np.testing.assert_array_equal(image_codec.decode(data), by_alpha[1.0])


def test_threads_do_not_disturb_each_other(image_codec, picture):
  images = [picture(h, 64) for h in range(40, 64)]
  files = [image_codec.encode(image) for image in images]
  decoded = [image_codec.decode(data) for data in files]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(image_codec.encode, images)) == files
    for a, b in zip(pool.map(image_codec.decode, files), decoded, strict=True):
      np.testing.assert_array_equal(a, b)


def test_decoder_takes_its_tables_from_the_model(model, monkeypatch, picture):
  # Nothing may be derived anew from floating point when a file is coded.
  def fail(*args):
    raise AssertionError("tables were derived")

  monkeypatch.setattr(tables, "gaussian_tables", fail)
  monkeypatch.setattr(tables, "prior_tables", fail)
  image_codec = codec.ImageCodec.from_model(model)
  image_codec.decode(image_codec.encode(picture(64, 64)))
