"""Files and arguments that must be refused, in one line and without an image."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.bitstream import codec, container


def _repack(data, **fields):
  """The file with other fields, its checksum right."""
  return container.pack(dataclasses.replace(container.unpack(data), **fields))


def test_file_of_another_model(image_codec, loud_model, picture):
  data = codec.ImageCodec.from_model(loud_model).encode(picture(64, 64))
  for decode in (
    image_codec.decode,
    image_codec.decode_symbols,
    image_codec.inspect,
  ):
    with pytest.raises(container.BitstreamError) as caught:
      decode(data)
    assert loud_model.fingerprint.hex() in str(caught.value)
    assert image_codec.fingerprint.hex() in str(caught.value)


def test_every_damage_raises(image_codec, picture):
  data = image_codec.encode(picture(37, 53))
  for bit in range(8 * len(data)):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(container.BitstreamError):
      image_codec.decode(bytes(damaged))
  for length in range(len(data)):
    with pytest.raises(container.BitstreamError):
      image_codec.decode(data[:length])


def test_damaged_payload_with_a_right_file_checksum(image_codec, picture):
  # As a file made to deceive would have it: the symbols' checksum has to tell.
  encoded = image_codec.encode_with_parts(picture(37, 53))
  (payload,) = container.unpack(encoded.data).payloads
  refused = 0
  rng = np.random.default_rng(0)
  for _ in range(100):
    damaged = bytearray(payload)
    for position in rng.integers(0, len(damaged), rng.integers(1, 4)):
      damaged[position] ^= 1 << rng.integers(8)
    data = _repack(encoded.data, payloads=(bytes(damaged),))
    try:
      symbols = image_codec.decode_symbols(data)
    except container.BitstreamError as error:
      assert "\n" not in str(error)
      refused += 1
    else:
      # The stream's last bits may be others and say the same.
      assert symbols.checksum() == encoded.symbols.checksum()
  assert refused > 90


def test_random_payloads_raise(image_codec, picture):
  data = image_codec.encode(picture(37, 53))
  rng = np.random.default_rng(0)
  payloads = [b"", bytes(50), b"\xff" * 50]
  payloads += [rng.bytes(rng.integers(1, 300)) for _ in range(50)]
  for payload in payloads:
    with pytest.raises(container.BitstreamError):
      image_codec.decode(_repack(data, payloads=(payload,)))


def test_wrong_symbol_checksum_names_the_cause(image_codec, picture):
  data = image_codec.encode(picture(64, 64))
  wrong = container.unpack(data).symbol_checksum ^ 1
  with pytest.raises(container.BitstreamError, match="arithmetic differs"):
    image_codec.decode(_repack(data, symbol_checksum=wrong))


def test_other_arithmetic_is_noticed(model, image_codec, picture, monkeypatch):
  data = image_codec.encode(picture(64, 64))
  other = codec.ImageCodec.from_model(model)
  programs = other._latent_coder._programs

  def shifted(*args):
    mean, scale_index = programs.slice_parameters(*args)
    return mean, scale_index + 0.25

  monkeypatch.setattr(
    other._latent_coder,
    "_programs",
    programs._replace(slice_parameters=shifted),
  )
  with pytest.raises(container.BitstreamError, match="arithmetic differs"):
    other.decode(data)


def test_other_tables_are_noticed(model, image_codec, picture):
  data = image_codec.encode(picture(64, 64))
  prior = model.tables["prior"]
  frequencies = prior.frequencies.copy()
  frequencies[: prior.lengths[0]] = prior[0][::-1]
  changed = dataclasses.replace(prior, frequencies=frequencies)
  other = codec.ImageCodec(
    model.config,
    model.params,
    {**model.tables, "prior": changed},
    model.fingerprint,
  )
  with pytest.raises(container.BitstreamError):
    other.decode(data)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range(image_codec, picture, alpha):
  data = image_codec.encode(picture(64, 64))
  with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
    image_codec.decode(data, alpha)


def test_alpha_needs_the_head(model, picture):
  plain = codec.ImageCodec(
    model.config,
    {"codec": model.params["codec"]},
    model.tables,
    model.fingerprint,
  )
  data = plain.encode(picture(64, 64))
  assert plain.decode(data).shape == (64, 64, 3)
  with pytest.raises(ValueError, match="no ORP head"):
    plain.decode(data, 0.5)


def test_declared_size_is_limited(image_codec, picture):
  data = image_codec.encode(picture(64, 64))
  assert image_codec.decode(data, max_pixels=64 * 64).shape == (64, 64, 3)
  with pytest.raises(container.BitstreamError, match="limit"):
    image_codec.decode(data, max_pixels=64 * 64 - 1)


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((8, 8, 3), np.float32),
    np.zeros((8, 8), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((0, 8, 3), np.uint8),
    [[[0, 0, 0]]],
  ],
)
def test_encode_refuses_what_is_no_image(image_codec, image):
  for call in (image_codec.encode, image_codec.estimate_bits):
    with pytest.raises(ValueError, match=r"pass \(H, W, 3\) uint8"):
      call(image)


@pytest.mark.parametrize(
  "part, message",
  [("hyper_analysis", "z is not"), ("charm", "parameters of slice 0")],
)
def test_latents_that_are_not_finite(model, picture, part, message):
  params = dict(model.params["codec"])
  params[part] = jax.tree.map(lambda p: jnp.full_like(p, np.nan), params[part])
  broken = codec.ImageCodec(
    model.config, {"codec": params}, model.tables, model.fingerprint
  )
  with pytest.raises(ValueError, match=message):
    broken.encode(picture(64, 64))
