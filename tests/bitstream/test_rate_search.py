"""The search alone, on sizes made up."""

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from egic_jax.bitstream import quality, rate_search

_LAST = quality.CODES[-1]


class _Sizes:
  """Whole bytes, nearly exponential in the code; counts what is asked for."""

  def __init__(self, least=400.0, span=2.5, bend=0.0, noise=0.0, seed=0):
    x = np.linspace(0, 1, _LAST)
    wave = noise * np.random.default_rng(seed).standard_normal(_LAST)
    log = math.log(least) + span * (x + bend * x * (1 - x)) + wave
    self.all = np.maximum(np.rint(np.exp(log)), 1).astype(int).tolist()
    self.asked = []

  def __call__(self, code):
    assert code in quality.CODES and code not in self.asked
    self.asked.append(code)
    return self.all[code - 1]


_CURVES = st.builds(
  _Sizes,
  least=st.floats(20, 1e6),
  span=st.floats(1, 4),
  bend=st.floats(-0.7, 0.7),
  noise=st.sampled_from([0.0, 0.001, 0.01, 0.2]),
  seed=st.integers(0, 100),
)


@hypothesis.given(_CURVES, st.floats(0.5, 2e8))
def test_what_is_within_is_known_and_not_assumed(sizes, target):
  found = rate_search.largest_within(sizes, target)
  if found is None:
    assert sizes.all[0] > target and 1 in sizes.asked
    return
  assert found in sizes.asked and sizes.all[found - 1] <= target
  if found < _LAST:
    assert found + 1 in sizes.asked and sizes.all[found] > target


@hypothesis.given(_CURVES, st.floats(0.5, 2e8))
def test_the_nearest_is_one_that_was_tried(sizes, target):
  found = rate_search.nearest(sizes, target)
  distance = abs(sizes.all[found - 1] - target)
  assert found in sizes.asked
  assert distance == min(
    abs(sizes.all[code - 1] - target) for code in sizes.asked
  )


@pytest.mark.parametrize("bend", [-0.5, 0.0, 0.5])
@pytest.mark.parametrize("span", [1.5, 2.5, 3.5])
def test_few_trials_and_the_best_of_all(bend, span):
  trials = {"within": [], "nearest": []}
  curve = dict(least=5000, span=span, bend=bend, noise=0.0005)
  for seed, share in enumerate(np.linspace(0.001, 0.999, 40)):
    every = _Sizes(**curve, seed=seed).all
    target = every[0] * (every[-1] / every[0]) ** share
    sizes = _Sizes(**curve, seed=seed)
    found = rate_search.largest_within(sizes, target)
    assert every[found - 1] == max(size for size in every if size <= target)
    trials["within"].append(len(sizes.asked))
    sizes = _Sizes(**curve, seed=seed)
    found = rate_search.nearest(sizes, target)
    best = min(abs(size - target) for size in every)
    assert abs(every[found - 1] - target) <= best + 0.002 * target
    trials["nearest"].append(len(sizes.asked))
  assert np.mean(trials["within"]) < 5 and max(trials["within"]) <= 7
  assert np.mean(trials["nearest"]) < 4.5 and max(trials["nearest"]) <= 6


def test_ends_take_two_trials():
  for target, found in ((1, None), (10**9, _LAST)):
    sizes = _Sizes()
    assert rate_search.largest_within(sizes, target) == found
    assert len(sizes.asked) == 2
  assert rate_search.nearest(_Sizes(), 1) == 1
  assert rate_search.nearest(_Sizes(), 10**9) == _LAST


def test_sizes_that_do_not_move():
  flat = _Sizes(span=0.0)
  assert rate_search.largest_within(flat, 400) == _LAST
  falling = _Sizes(span=-2.5)
  assert rate_search.largest_within(falling, 399) in falling.asked
  assert len(falling.asked) < 20
