"""Pictures of several tiles and windows, and the number of programs."""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest

import egic_jax
from egic_jax.bitstream import batches, container, programs, tiles, windowed
from egic_jax.models import codec as codec_lib
from egic_jax.models import presets

# Two tiles, two windows each way; narrow, to be quick.
_SIZE = (1030, 60)


@pytest.fixture(scope="module")
def strip(picture):
  return picture(*_SIZE)


@pytest.fixture(scope="module")
def encoded(image_codec, strip):
  return image_codec.encode_with_parts(strip)


def test_large_picture_comes_back(image_codec, strip, encoded):
  header = container.unpack(encoded.data)
  assert len(header.payloads) == 2 and min(map(len, header.payloads)) > 100
  parts = []
  decoded = image_codec.decode(
    encoded.data, progress=lambda *done: parts.append(done)
  )
  assert decoded.shape == strip.shape
  assert parts == [(k, 4) for k in range(1, 5)]
  symbols = image_codec.decode_symbols(encoded.data)
  np.testing.assert_array_equal(symbols.z, encoded.symbols.z)
  for left, right in zip(symbols.y, encoded.symbols.y, strict=True):
    np.testing.assert_array_equal(left, right)
  parts.clear()
  data = image_codec.encode(strip, progress=lambda *done: parts.append(done))
  assert data == encoded.data and parts == [(k, 4) for k in range(1, 5)]


def test_parts_of_several_tiles_add_up(image_codec, strip, encoded):
  facts = image_codec.inspect(encoded.data)
  assert facts["tiles"] == 2
  total = facts["z_bytes"] + sum(facts["y_bytes"])
  assert abs(facts["payload_bytes"] - total) <= 2
  assert facts["z_bytes"] == pytest.approx(encoded.z_bits / 8)
  estimate = image_codec.estimate_bits(strip)
  np.testing.assert_allclose(encoded.y_bits, estimate["y_bits"], rtol=0.05)
  assert encoded.z_bits == pytest.approx(estimate["z_bits"], rel=1e-3)


def test_windows_show_the_whole_pictures_transforms(model, strip):
  # With windows that no layer displaces, both are exact.
  params = model.params["codec"]
  network = codec_lib.Codec(model.config)
  padded = np.pad(strip, ((0, 58), (0, 4), (0, 0)), "reflect")[None]
  whole = jax.jit(
    lambda image: network.apply({"params": params}, image, method="analysis")
  )(padded.astype(np.float32) / 255)
  y = windowed.analysis(
    model.config,
    functools.partial(programs.programs(model.config).analysis, params),
    strip[None],
  )
  np.testing.assert_allclose(y, whole, atol=1e-4 * np.std(whole))

  parts = programs.programs(model.config)
  image = windowed.synthesis(
    model.config,
    lambda y_hat, valid: parts.synthesis(params, y_hat, valid),
    y,
    _SIZE,
  )
  whole = jax.jit(
    lambda y: network.apply({"params": params}, y, method="synthesis")
  )(y)
  expected = np.clip(255 * np.asarray(whole), 0, 255)[:, :1030, :60]
  assert image.shape == (1, *_SIZE, 3)
  assert np.abs(image - expected).max() < 0.51


def test_tiles_are_coded_independently(image_codec, strip, encoded):
  changed = strip.copy()
  changed[-64:] = 255 - changed[-64:]
  before = container.unpack(encoded.data).payloads
  after = container.unpack(image_codec.encode(changed)).payloads
  assert before[0] == after[0] and before[1] != after[1]
  # The second tile alone, from its own bytes.
  header = container.unpack(encoded.data)
  region = tiles.tiles(*header.z_size)[1]
  (alone,), _ = image_codec._latent_coder.decode(
    [before[1]], region.size, region.coded(header.size)
  )
  np.testing.assert_array_equal(alone.z, encoded.symbols.z[:, *region.slices()])


def test_a_wrong_tile_is_noticed(image_codec, encoded):
  header = container.unpack(encoded.data)
  first, second = header.payloads
  for payloads in ((first, first), (second, second), (b"", second)):
    data = container.pack(dataclasses.replace(header, payloads=payloads))
    with pytest.raises(container.BitstreamError):
      image_codec.decode(data)


def _programs_compiled(config) -> dict[str, int]:
  return {
    name: program._cache_size()
    for name, program in programs.programs(config)._asdict().items()
  }


def test_odd_sizes_share_programs(model, image_codec, picture):
  before = _programs_compiled(model.config)
  sizes = [(128, 128), (1, 128), (65, 70), (100, 127), (128, 3), (77, 99)]
  for size in sizes:
    image = picture(*size)
    image_codec.estimate_bits(image)
    image_codec.decode(image_codec.encode(image))
  after = _programs_compiled(model.config)
  for name, count in after.items():
    slices = model.config.num_slices if name == "slice_parameters" else 1
    assert count - before[name] <= slices, name


@pytest.fixture(scope="module")
def batch(picture):
  images = [picture(37, 53 + k)[:, :53] for k in range(3)]
  return np.stack(images)


def test_batch_is_its_images(image_codec, batch, monkeypatch):
  # In parts of two, the second filled up: one size of batch is compiled.
  monkeypatch.setattr("egic_jax.bitstream.batches._PIXELS", 2 * 128**2)
  before = _programs_compiled(image_codec.config)
  files = egic_jax.encode_batch(image_codec, batch)
  assert files == [image_codec.encode(image) for image in batch]
  images = egic_jax.decode_batch(image_codec, files)
  assert images.shape == batch.shape and images.dtype == np.uint8
  for data, image in zip(files, images, strict=True):
    decoded = image_codec.decode(data).astype(int)
    assert np.abs(decoded - image).max() <= 1
  # One for two pictures, and one for a picture alone.
  after = _programs_compiled(image_codec.config)
  assert after["analysis"] - before["analysis"] <= 2
  assert image_codec.encode_batch(batch[:0]) == []


def test_parts_of_a_batch_side_by_side(image_codec, batch, monkeypatch):
  files = image_codec.encode_batch(batch)
  alone = files, image_codec.decode_batch(files)
  # As if networks ran on an accelerator.
  monkeypatch.setattr(batches, "_overlap", lambda: True)
  for _ in range(2):
    files = image_codec.encode_batch(batch)
    assert files == alone[0]
    images = image_codec.decode_batch(files).astype(int)
    assert np.abs(images - alone[1]).max() <= 1


def test_two_parts_run_at_a_time_once_compiled(monkeypatch):
  monkeypatch.setattr(batches, "_overlap", lambda: True)
  monkeypatch.setattr(batches, "_PIXELS", 2 * 128**2)
  runner = batches.Runner(presets.get_preset("tiny"))
  both = threading.Barrier(2, timeout=20)
  seen = []

  def first(part, length):
    seen.append(threading.current_thread())
    return part, length

  def together(part, length):
    both.wait()
    return part.start

  # The first part is the caller's thread's; of the others there are two threads.
  expected = [(slice(0, 2), 2), (slice(2, 4), 2), (slice(4, 6), 2)]
  assert runner.map(first, "work", 5, (2, 2)) == expected
  assert seen[0] is threading.main_thread()
  assert threading.main_thread() not in seen[1:]
  assert runner.map(together, "work", 4, (2, 2)) == [0, 2]
  # A small batch is cut in two, a single picture cannot be.
  assert runner.map(first, "work", 2, (2, 2)) == [
    (slice(0, 1), 1),
    (slice(1, 2), 1),
  ]
  assert runner.map(first, "work", 1, (2, 2)) == [(slice(0, 1), 1)]
  assert runner.map(first, "work", 0, (2, 2)) == []


@pytest.mark.parametrize("size", [(1030, 70), (1088, 64), (64, 1100)])
def test_windows_see_their_part_of_the_padded_picture(size):
  config = presets.get_preset("tiny")
  images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
  padding = ((0, 0), *((0, -side % 64) for side in size), (0, 0))
  padded = np.pad(images, padding, "reflect")
  seen = []

  def analyse(pixels, valid):
    del valid
    seen.append(pixels)
    rows, columns = (side // 16 for side in pixels.shape[1:3])
    return np.zeros((1, rows, columns, config.latent_channels), np.float32)

  windowed.analysis(config, analyse, images)
  z_size = tuple(side // 64 for side in padded.shape[1:3])
  windows = windowed.analysis_windows(z_size)
  assert len(seen) == len(windows) == 2
  for pixels, window in zip(seen, windows, strict=True):
    expected = padded[:, *window.outer.slices(64)]
    rows, columns = expected.shape[1:3]
    np.testing.assert_array_equal(pixels[:, :rows, :columns], expected)


def test_batches_that_are_refused(image_codec, batch, picture):
  for images in (batch[0], batch.astype(np.float32), batch[:, :0], list(batch)):
    with pytest.raises(ValueError, match=r"pass \(N, H, W, 3\) uint8"):
      image_codec.encode_batch(images)
  files = [image_codec.encode(picture(64, 64)), image_codec.encode(batch[0])]
  with pytest.raises(ValueError, match="pictures of 2 sizes"):
    image_codec.decode_batch(files)
  with pytest.raises(ValueError, match="at least one"):
    image_codec.decode_batch([])
  with pytest.raises(container.BitstreamError, match="damaged"):
    image_codec.decode_batch([files[0], files[0][:-1]])
  with pytest.raises(container.BitstreamError, match="limit"):
    image_codec.decode_batch(files, max_pixels=100)
  with pytest.raises(ValueError, match="alpha is 2"):
    image_codec.decode_batch(files, 2)
