import dataclasses
import math

import jax
import numpy as np
import pytest

from egic_jax.bitstream import tables
from egic_jax.entropy import factorized, gaussian


def _prior(channels=6, seed=0):
  """A prior whose channels differ in place, width and shape."""
  rng = np.random.default_rng(seed)
  shapes = {
    "matrices_0": (3, 1),
    "matrices_1": (3, 3),
    "matrices_2": (1, 3),
    "biases_0": (3, 1),
    "biases_1": (3, 1),
    "biases_2": (1, 1),
    "factors_0": (3, 1),
    "factors_1": (3, 1),
  }
  prior = {
    name: rng.normal(size=(channels, *shape)).astype(np.float32)
    for name, shape in shapes.items()
  }
  prior["biases_0"] *= 4
  prior["matrices_0"] += np.linspace(-4, 3, channels, dtype=np.float32)[
    :, None, None
  ]
  return prior


def _normal_mass(low, high, sigma):
  """Probability between low and high, at least 0, by the upper tail."""
  scale = 1 / (sigma * math.sqrt(2))
  return 0.5 * (math.erfc(low * scale) - math.erfc(high * scale))


def test_gaussian_tables_are_sound():
  gaussian_tables = tables.gaussian_tables()
  gaussian_tables.check()
  assert len(gaussian_tables) == gaussian.NUM_SCALES
  for k in range(gaussian.NUM_SCALES):
    table = gaussian_tables[k]
    assert table.sum() == 2**24 and table.min() >= 1
    symbols = table[:-1]
    assert len(symbols) == 1 - 2 * gaussian_tables.offsets[k]
    # An escape is as rare as a symbol can be.
    assert table[-1] <= 2
    # Neighbours of equal probability may differ by the last unit.
    assert np.abs(symbols - symbols[::-1]).max() <= 1


def test_gaussian_frequencies_are_the_probabilities():
  gaussian_tables = tables.gaussian_tables()
  for k, sigma in enumerate(gaussian.scale_table()):
    table, low = gaussian_tables[k], gaussian_tables.offsets[k]
    free = 2**24 - len(table)
    for n in {0, 1, 2, 5, -low // 2, -low}:
      if n > -low:
        continue
      expected = 1 + free * _normal_mass(
        max(n, 0.0) - 0.5 if n else 0.0, n + 0.5, sigma
      ) * (1 if n else 2)
      assert abs(table[n - low] - expected) <= 1 + 1e-6 * expected


def test_gaussian_tables_waste_next_to_nothing():
  gaussian_tables = tables.gaussian_tables()
  for k, sigma in enumerate(gaussian.scale_table()):
    table, low = gaussian_tables[k], gaussian_tables.offsets[k]
    mass = np.array(
      [
        2 * _normal_mass(0, 0.5, sigma)
        if n == 0
        else _normal_mass(abs(n) - 0.5, abs(n) + 0.5, sigma)
        for n in range(low, -low + 1)
      ]
    )
    used = mass > 0
    entropy = -np.sum(mass[used] * np.log2(mass[used]))
    cost = np.sum(mass * (24 - np.log2(table[:-1])))
    assert cost - entropy < 3e-6 + 3e-4 * entropy


def test_smallest_scale_is_a_point_mass():
  table = tables.gaussian_tables()[0]
  zero = -tables.gaussian_tables().offsets[0]
  # 2 Phi(-0.5 / 0.11) = 5.5e-6 of all symbols are not zero.
  assert 2**24 - table[zero] == pytest.approx(2**24 * 5.5e-6, abs=25)
  assert len(table) == 18


def test_frequencies_for_a_scale_of_zero():
  probabilities = np.array([0.0, 0.0, 1.0, 0.0, 0.0])
  table = tables._frequencies(probabilities)
  assert table.tolist() == [1, 1, 2**24 - 4, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_prior_frequencies_are_the_probabilities(seed):
  prior = _prior(seed=seed)
  prior_tables = tables.prior_tables(prior)
  prior_tables.check()
  assert len(prior_tables) == 6
  for c in range(6):
    table, low = prior_tables[c], int(prior_tables.offsets[c])
    symbols = low + np.arange(len(table) - 1)
    free = 2**24 - len(table)
    for n, frequency in zip(symbols[::7], table[:-1:7], strict=True):
      expected = 1 + free * _prior_mass(prior, c, n)
      assert abs(frequency - expected) <= 1 + 1e-6 * expected
    # Together the tails are what is left.
    tails = 1 - sum(_prior_mass(prior, c, n) for n in symbols)
    assert abs(table[-1] - 1 - free * tails) <= 1 + 1e-6 * free * tails
    assert table[-1] <= 20


def _prior_mass(prior, c, n):
  """By scalars and tanh, independently of the vectorised form."""

  def cdf(x):
    units = [x]
    for k in range(3):
      matrix = prior[f"matrices_{k}"][c].astype(float)
      outputs = []
      for j, row in enumerate(matrix):
        value = float(prior[f"biases_{k}"][c, j, 0])
        value += sum(
          math.log1p(math.exp(m)) * u for m, u in zip(row, units, strict=True)
        )
        if k < 2:
          factor = math.tanh(float(prior[f"factors_{k}"][c, j, 0]))
          value += factor * math.tanh(value)
        outputs.append(value)
      units = outputs
    return 0.5 * (1 + math.tanh(units[0] / 2))

  return cdf(n + 0.5) - cdf(n - 0.5)


def test_cdf_logits_are_those_of_training():
  prior = _prior()
  x = np.linspace(-30, 30, 61)[:, None] * np.ones(6)
  np.testing.assert_allclose(
    tables.cdf_logits({k: v.astype(np.float64) for k, v in prior.items()}, x),
    factorized.cdf_logits(
      jax.tree.map(jax.numpy.asarray, prior), x.astype(np.float32)
    ),
    rtol=1e-4,
    atol=1e-4,
  )


def test_prior_far_from_zero_and_very_wide():
  prior = _prior()
  # The median moves to about 1e6; the width grows beyond the largest table.
  matrix = np.logaddexp(0, prior["matrices_0"][0].astype(np.float64))
  prior["biases_0"][0] = -1e6 * matrix
  prior["matrices_0"][1] = -20.0
  prior_tables = tables.prior_tables(prior)
  prior_tables.check()
  low, high = prior_tables.offsets[0], prior_tables.lengths[0]
  assert low < 1e6 < low + high
  assert prior_tables.lengths[1] == 2 * 2048 + 2
  # Most of the mass is outside: it belongs to the escape.
  assert prior_tables[1][-1] > 2**23


def test_prior_that_is_not_finite_is_refused():
  prior = _prior()
  prior["biases_1"][2, 0, 0] = np.nan
  with pytest.raises(ValueError, match="prior biases_1 .* not finite"):
    tables.prior_tables(prior)


def _sound():
  return tables.SymbolTables(
    frequencies=np.array([1, 2**24 - 1, 2, 2**24 - 3, 1], np.int32),
    lengths=np.array([2, 3], np.int32),
    offsets=np.array([0, -1], np.int32),
  )


def test_check_accepts_sound_tables():
  _sound().check()


@pytest.mark.parametrize(
  "name, value, message",
  [
    ("frequencies", [1, 2**24 - 1, 2, 2**24 - 2, 1], "table 1 sums"),
    ("frequencies", [0, 2**24, 2, 2**24 - 3, 1], "less than 1"),
    ("frequencies", [-1, 2**24 + 1, 2, 2**24 - 3, 1], "less than 1"),
    ("frequencies", [1, 2**24 - 1, 2], "add up"),
    ("lengths", [1, 4], "fewer than two"),
    ("lengths", [2, 2], "add up"),
    ("lengths", [2], "offsets for"),
    ("offsets", [0, 2**31 - 1], "outside"),
    ("offsets", [0, -(2**31)], "outside"),
  ],
)
def test_check_names_what_is_wrong(name, value, message):
  broken = dataclasses.replace(_sound(), **{name: np.array(value, np.int32)})
  with pytest.raises(ValueError, match=message):
    broken.check()


def test_check_refuses_other_dtypes():
  sound = _sound()
  broken = dataclasses.replace(sound, lengths=sound.lengths.astype(np.int64))
  with pytest.raises(ValueError, match="lengths is int64"):
    broken.check()
