"""Files are read by machines that compute slightly, or very, differently."""

import jax
import numpy as np
import pytest

from egic_jax.bitstream import container, latents, programs, scale_rounding

MARGIN = scale_rounding.MARGIN
SIZE = (3, 5)  # Of z: no bucket fits exactly.
COUNT = 12
CODED = (11, 18)  # Rows and columns of y: the last ones are padding.


def _noisy(networks, *, every=0.0, index=0.0, seed=0):
  """Networks whose outputs deviate by up to `every`, scale indices by `index`."""
  rng = np.random.default_rng(seed)

  def disturbed(x, bound):
    noise = rng.uniform(-bound, bound, x.shape)
    return (np.asarray(x, np.float64) + noise).astype(np.float32)

  def hyper_synthesis(*args):
    return tuple(disturbed(x, every) for x in networks.hyper_synthesis(*args))

  def slice_parameters(*args):
    mean, scale_index = networks.slice_parameters(*args)
    return disturbed(mean, every), disturbed(scale_index, every + index)

  return networks._replace(
    hyper_synthesis=hyper_synthesis, slice_parameters=slice_parameters
  )


@pytest.fixture(scope="module")
def coder(model):
  """Returns a function (noise) > LatentCoder."""
  params = jax.tree.map(jax.numpy.asarray, model.params["codec"])
  networks = programs.programs(model.config)

  def make(**noise):
    return latents.LatentCoder(
      model.config, params, model.tables, _noisy(networks, **noise)
    )

  return make


@pytest.fixture(scope="module")
def latent(model):
  """y and z of a few tiles."""
  rng = np.random.default_rng(0)
  config = model.config
  z = 3 * rng.standard_normal((COUNT, *SIZE, config.hyper_width))
  y_shape = (COUNT, 4 * SIZE[0], 4 * SIZE[1], config.latent_channels)
  y = 5 * rng.standard_normal(y_shape)
  return y.astype(np.float32), z.astype(np.float32)


@pytest.fixture(scope="module")
def coded(coder, latent):
  """Payloads of these tiles, made without noise."""
  return coder().encode(*latent, CODED)


def _decode(coder, coded):
  """Checksums that tiles decode to."""
  symbols, _ = coder.decode([payload.data for payload in coded], SIZE, CODED)
  return [tile.checksum() for tile in symbols]


def _expected(coded):
  return [payload.symbols.checksum() for payload in coded]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
  "noise",
  [
    pytest.param({"index": 0.99 * MARGIN}, id="scale_indices"),
    pytest.param({"every": MARGIN / 100}, id="every_output"),
  ],
)
def test_deviations_within_the_margin_change_nothing(coder, coded, noise, seed):
  assert _decode(coder(**noise, seed=seed), coded) == _expected(coded)


def test_rounding_plainly_would_fail(coder, latent, monkeypatch):
  # The tests above mean something: the noise that they add does harm.
  def plain(scale_index, shifts):
    del shifts
    return np.clip(np.rint(scale_index), 0, 63).astype(np.int32)

  monkeypatch.setattr(scale_rounding, "round_indices", plain)
  coded = coder().encode(*latent, CODED)
  assert _decode(coder(), coded) == _expected(coded)
  try:
    found = _decode(coder(index=0.99 * MARGIN), coded)
  except container.BitstreamError:
    return
  assert found != _expected(coded)


@pytest.mark.parametrize("seed", range(10))
def test_larger_deviations_are_noticed(coder, coded, seed):
  noisy = coder(every=0.1, seed=seed)
  try:
    found = _decode(noisy, coded)
  except container.BitstreamError:
    return
  assert all(
    one != other for one, other in zip(found, _expected(coded), strict=True)
  )


def test_tiles_of_a_batch_are_those_of_single_calls(coder, coded):
  one_by_one = [_decode(coder(), [payload])[0] for payload in coded[:3]]
  assert one_by_one == _expected(coded[:3])


def test_what_sees_only_padding_is_not_coded(coder, latent, coded):
  rows, columns = CODED
  for payload in coded:
    for symbols in payload.symbols.y:
      assert symbols[:, :rows, :columns].any()
      assert not symbols[:, rows:].any()
      assert not symbols[:, :, columns:].any()
  # The whole of y has 240 elements a channel, of which 198 are coded.
  whole = coder().encode(*latent, (12, 20))
  bits = sum(payload.y_bits.sum() for payload in coded)
  all_bits = sum(payload.y_bits.sum() for payload in whole)
  assert bits / all_bits == pytest.approx(198 / 240, abs=0.03)


def test_measure_gives_the_same_stream(coder, coded):
  for payload in coded:
    again = coder().measure(payload.symbols, CODED)
    assert again.data == payload.data
    assert again.z_bits == payload.z_bits
    np.testing.assert_array_equal(again.y_bits, payload.y_bits)
    assert 0 < again.rounding_bits < again.y_bits.sum()


def test_what_is_zero_everywhere_takes_no_bits(model, coder):
  config = model.config
  z = np.zeros((1, 2, 2, config.hyper_width), np.int32)
  means = []

  def visit(i, mean, scale_index):
    del i, scale_index
    means.append(mean)
    return np.zeros(mean.shape, np.int32)

  coder()._visit_slices(z, visit)
  y = np.concatenate(means, axis=-1)
  (payload,) = coder().encode(y, z.astype(np.float32), (8, 8))
  assert not any(symbols.any() for symbols in payload.symbols.y)
  # Four bits a slice say that no table is needed.
  assert payload.y_bits.sum() - payload.rounding_bits == pytest.approx(
    4 * config.num_slices, abs=0.1
  )
  (symbols,), y_hat = coder().decode([payload.data], (2, 2), (8, 8))
  assert symbols.checksum() == payload.symbols.checksum()
  np.testing.assert_array_equal(y_hat, y)
