"""One model for several rates: quality, and files of a size asked for."""

import dataclasses

import jax
import numpy as np
import pytest

import egic_jax
from egic_jax.bitstream import codec, container, latents, quality
from egic_jax.models import codec as codec_lib

_LEVELS = 4


@pytest.fixture(scope="module")
def image(picture):
  return picture(100, 120)


@pytest.fixture(scope="module")
def ladder(variable_codec, image):
  """The file of every code, by encoding anew for each."""
  return {
    code: variable_codec.encode(image, float(quality.of_code(code, _LEVELS)))
    for code in quality.CODES
  }


def _code(data):
  return container.unpack(data).quality_code


def test_quality_is_in_the_file(variable_codec, ladder, image):
  assert [_code(data) for data in ladder.values()] == list(quality.CODES)
  sizes = [len(data) for data in ladder.values()]
  assert sizes[-1] > 5 * sizes[0]
  default = variable_codec.encode(image)
  assert default == variable_codec.encode(image, 2.0)
  assert variable_codec.nearest_quality(None) == pytest.approx(2, abs=0.01)
  assert variable_codec.quality_range == (1.0, 4.0)
  facts = variable_codec.inspect(ladder[200])
  assert facts["version"] == 3 and facts["quality_code"] == 200
  assert facts["quality"] == quality.of_code(200, _LEVELS)


def test_symbols_come_back_at_every_quality(variable_codec, image):
  for value in (1.0, 1.77, 4.0):
    encoded = variable_codec.encode_with_parts(image, value)
    assert encoded.data == variable_codec.encode(image, value)
    decoded = variable_codec.decode_symbols(encoded.data)
    np.testing.assert_array_equal(decoded.z, encoded.symbols.z)
    for ours, theirs in zip(decoded.y, encoded.symbols.y, strict=True):
      np.testing.assert_array_equal(ours, theirs)


def test_image_is_the_networks(
  variable_model, variable_codec, picture, monkeypatch
):
  # The network rounds every latent.
  monkeypatch.setattr(latents, "_QUIET_TABLES", 0)
  image = picture(64, 64)
  network = jax.jit(codec_lib.Codec(variable_model.config).apply)
  for value in (1.0, 2.5, 4.0):
    value = variable_codec.nearest_quality(value)
    output = network(
      {"params": variable_model.params["codec"]},
      image[None].astype(np.float32) / 255,
      quality=np.float32([value]),
    )
    expected = np.clip(np.asarray(output.x_hat[0]) * 255, 0, 255)
    encoded = variable_codec.encode_with_parts(image, value)
    np.testing.assert_array_equal(encoded.symbols.z, output.z_hat)
    estimate = variable_codec.estimate_bits(image, value)
    np.testing.assert_allclose(estimate["y_bits"], output.y_bits[0], rtol=0.01)
    decoded = variable_codec.decode(encoded.data)
    assert np.std(decoded) > 1
    # Two programs may round a latent differently; no more than a few.
    assert np.mean(np.abs(decoded - expected) > 0.6) < 0.02


def test_a_batch_has_one_quality_and_decodes_at_any(variable_codec, picture):
  images = np.stack([picture(37, 53 + k)[:, :53] for k in range(2)])
  files = egic_jax.encode_batch(variable_codec, images, 3.0)
  assert files == [variable_codec.encode(image, 3.0) for image in images]
  files[0] = variable_codec.encode(images[0], 1.0)
  decoded = egic_jax.decode_batch(variable_codec, files)
  for data, batched in zip(files, decoded, strict=True):
    alone = variable_codec.decode(data).astype(int)
    assert np.abs(alone - batched).max() <= 1


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77, 0.98])
def test_sizes_asked_for(variable_codec, ladder, image, share, monkeypatch):
  calls = []
  analysis = variable_codec._encoder._programs.analysis
  counting = variable_codec._encoder._programs._replace(
    analysis=lambda *a: calls.append(1) or analysis(*a)
  )
  monkeypatch.setattr(variable_codec._encoder, "_programs", counting)

  sizes = {code: len(data) for code, data in ladder.items()}
  target = round(sizes[1] * (sizes[255] / sizes[1]) ** share)
  fitted = variable_codec.encode_to(image, max_bytes=target)
  assert len(fitted.data) <= target and not fitted.at_highest
  assert fitted.data == ladder[_code(fitted.data)]
  assert fitted.quality == quality.of_code(_code(fitted.data), _LEVELS)
  best = max(size for size in sizes.values() if size <= target)
  assert len(fitted.data) >= 0.98 * best
  assert len(calls) == 1 and fitted.trials <= 9

  pixels = image.shape[0] * image.shape[1]
  bpp = 8 * target / pixels
  fitted = variable_codec.encode_to(image, bpp=bpp)
  assert fitted.data == ladder[_code(fitted.data)]
  assert 8 * len(fitted.data) / pixels == pytest.approx(bpp, rel=0.02)
  assert len(calls) == 2 and fitted.trials <= 9


def test_sizes_that_cannot_be_had(variable_codec, ladder, image):
  least, most = len(ladder[1]), len(ladder[255])
  pixels = image.shape[0] * image.shape[1]
  with pytest.raises(ValueError, match=f"takes {least} bytes") as caught:
    variable_codec.encode_to(image, max_bytes=least - 1)
  assert f"max_bytes is {least - 1}" in str(caught.value)
  assert len(variable_codec.encode_to(image, max_bytes=least).data) <= least
  with pytest.raises(ValueError, match=f"takes {8 * least / pixels:.4f}"):
    variable_codec.encode_to(image, bpp=0.97 * 8 * least / pixels)
  close = variable_codec.encode_to(image, bpp=0.99 * 8 * least / pixels)
  assert len(close.data) <= least
  for target in ({"max_bytes": 2 * most}, {"bpp": 8 * 2 * most / pixels}):
    fitted = variable_codec.encode_to(image, **target)
    assert fitted.data == ladder[255] and fitted.at_highest
  assert not variable_codec.encode_to(image, max_bytes=most).at_highest


def test_a_picture_of_several_tiles(variable_codec, picture):
  strip = picture(1030, 60)
  parts = []
  fitted = variable_codec.encode_to(
    strip, bpp=0.4, progress=lambda *done: parts.append(done)
  )
  assert 8 * len(fitted.data) / strip[..., 0].size == pytest.approx(
    0.4, rel=0.02
  )
  assert len(container.unpack(fitted.data).payloads) == 2
  assert fitted.data == variable_codec.encode(strip, fitted.quality)
  assert variable_codec.decode(fitted.data).shape == strip.shape
  done = [count for count, _ in parts]
  assert done == sorted(done) and parts[-1][0] == parts[-1][1]
  assert len(parts) >= 2 + 2 * fitted.trials


@pytest.mark.parametrize(
  "target, message",
  [
    ({}, "pass one of the two"),
    ({"max_bytes": 100, "bpp": 1.0}, "pass one of the two"),
    ({"max_bytes": 0}, "max_bytes is 0; it must be above 0"),
    ({"bpp": -1.0}, "bpp is -1.0; it must be above 0"),
    ({"bpp": float("nan")}, "bpp is nan"),
    ({"bpp": float("inf")}, "bpp is inf"),
  ],
)
def test_targets_that_are_none(variable_codec, image, target, message):
  with pytest.raises(ValueError, match=message):
    variable_codec.encode_to(image, **target)


def test_qualities_that_are_none(variable_codec, image_codec, image):
  for call in (
    variable_codec.encode,
    variable_codec.encode_with_parts,
    variable_codec.estimate_bits,
    lambda image, value: variable_codec.encode_batch(image[None], value),
  ):
    with pytest.raises(ValueError, match=r"4.5; it must lie in \[1, 4\]"):
      call(image, 4.5)
  with pytest.raises(ValueError, match="one rate only"):
    image_codec.encode(image, 2.0)
  with pytest.raises(ValueError, match="one rate only"):
    image_codec.encode_to(image, bpp=1.0)
  with pytest.raises(ValueError, match="leave out one"):
    egic_jax.encode(variable_codec, image, 2.0, bpp=1.0)
  assert image_codec.quality_range is None
  assert image_codec.nearest_quality(None) is None


def test_files_of_the_other_kind_of_model(
  variable_model, model, variable_codec, image_codec, image
):
  """The fingerprint made to fit, as a forger would."""
  for opened, data, wrong in (
    (variable_model, image_codec.encode(image), "version 2"),
    (model, variable_codec.encode(image), "version 3"),
  ):
    with pytest.raises(container.BitstreamError, match="made by model"):
      codec.ImageCodec.from_model(opened).decode(data)
    forged = container.pack(
      dataclasses.replace(
        container.unpack(data), fingerprint=opened.fingerprint
      )
    )
    decoder = codec.ImageCodec.from_model(opened)
    for decode in (decoder.decode, decoder.decode_symbols, decoder.inspect):
      with pytest.raises(container.BitstreamError, match=wrong) as caught:
        decode(forged)
      assert "\n" not in str(caught.value)


def test_another_quality_in_the_header_changes_no_symbol(
  variable_codec, ladder
):
  """Nothing that is decoded hangs on the gains; the picture does."""
  header = container.unpack(ladder[128])
  before = variable_codec.decode_symbols(ladder[128])
  forged = container.pack(dataclasses.replace(header, quality_code=255))
  assert variable_codec.decode_symbols(forged).checksum() == before.checksum()
  assert (
    variable_codec.decode(forged) != variable_codec.decode(ladder[128])
  ).any()
