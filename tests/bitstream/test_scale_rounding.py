"""Scale indices round alike wherever they deviate by less than the margin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egic_jax.bitstream import container, range_coder, scale_rounding

MARGIN = scale_rounding.MARGIN


def _indices(kind: str, size: int, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  values = {
    "even": lambda: rng.uniform(0, 63, size),
    "clipped": lambda: np.clip(rng.normal(0, 8, size), 0, 63),
    "boundaries": lambda: rng.integers(0, 63, size) + 0.5,
    "near_boundaries": lambda: (
      rng.integers(0, 63, size) + 0.5 + rng.normal(0, MARGIN, size)
    ),
    "ends": lambda: rng.choice([0.0, 0.25, 0.5, 62.5, 62.75, 63.0], size),
    "constant": lambda: np.full(size, 7.5 - MARGIN / 2),
  }[kind]()
  return np.clip(values, 0, 63).astype(np.float32)


def _shift(choice: int) -> float:
  """The sequence 0, +u, -u, +2u, -2u, ... spelled out."""
  if choice == 0:
    return 0.0
  return (1 if choice % 2 else -1) * ((choice + 1) // 2) * 2 * MARGIN


def _is_safe(index: np.ndarray, choice: int) -> bool:
  """No index lies within MARGIN of any boundary, one by one."""
  boundaries = np.arange(63) + 0.5
  shifted = index.astype(np.float64) + _shift(choice)
  return bool((np.abs(shifted[:, None] - boundaries) > MARGIN).all())


@pytest.mark.parametrize("size", [1, 50, 3000, 40_000])
@pytest.mark.parametrize(
  "kind",
  ["even", "clipped", "boundaries", "near_boundaries", "ends", "constant"],
)
def test_deviations_below_the_margin_change_no_table(kind, size):
  index = _indices(kind, size)
  shifts = scale_rounding.choose_shifts(index)
  tables = scale_rounding.round_indices(index, shifts)
  rng = np.random.default_rng(1)
  for deviation in (
    np.full(size, 0.999),
    np.full(size, -0.999),
    rng.choice([-0.999, 0.999], size),
    rng.uniform(-0.999, 0.999, size),
  ):
    other = index.astype(np.float64) + deviation * MARGIN
    np.testing.assert_array_equal(
      scale_rounding.round_indices(other, shifts), tables
    )
  # A table is never far from the index.
  assert np.abs(tables - index).max() <= 0.75 + 1e-6


@given(
  seed=st.integers(0, 2**32 - 1),
  size=st.integers(1, 400),
  kind=st.sampled_from(["even", "boundaries", "near_boundaries", "ends"]),
)
@settings(max_examples=60, deadline=None)
def test_the_first_shift_that_is_safe_is_chosen(seed, size, kind):
  index = _indices(kind, size, seed)
  (choice,) = scale_rounding.choose_shifts(index)
  safe = (c for c in range(401) if _is_safe(index, c))
  assert choice == next(safe)


def test_groups_are_cut_as_stated():
  index = _indices("even", 40_000)
  shifts = scale_rounding.choose_shifts(index)
  # 40,000 x 2 x MARGIN / 4 = 4.9: eight groups.
  assert len(shifts) == scale_rounding.num_groups(40_000) == 8
  for group, choice in enumerate(shifts):
    part = index[group * 5000 : (group + 1) * 5000]
    assert _is_safe(part, choice)
    assert not any(_is_safe(part, c) for c in range(choice))


def test_without_a_safe_shift_the_best_one_is_taken():
  # Every place of the fraction is taken, but one far from zero only once.
  unit = 2 * MARGIN
  fractions = np.arange(-0.3, 0.3, unit / 3)
  crowd = np.repeat(5.5 - fractions, 2)
  spared = 5.5 - 20 * unit
  crowd = crowd[np.abs(crowd - spared) > 1.1 * MARGIN]
  index = np.append(crowd, spared).astype(np.float32)
  assert index.size < 8192
  (choice,) = scale_rounding.choose_shifts(index)
  assert _shift(choice) == 20 * unit


def test_nothing_is_shifted_where_nothing_is_near():
  index = np.arange(64, dtype=np.float32).repeat(100)
  shifts = scale_rounding.choose_shifts(index)
  assert not shifts.any()
  np.testing.assert_array_equal(
    scale_rounding.round_indices(index, shifts), np.arange(64).repeat(100)
  )


def test_shifts_survive_the_stream():
  rng = np.random.default_rng(0)
  sizes = [300, 40_000, 40_000, 130_000]
  written = []
  encoder, coder = range_coder.Encoder(), scale_rounding.ShiftCoder()
  for size in sizes:
    shifts = rng.integers(
      0, scale_rounding.NUM_SHIFTS, scale_rounding.num_groups(size)
    ).astype(np.int32)
    coder.encode(encoder, shifts)
    written.append(shifts)
  decoder = range_coder.Decoder(encoder.get_bytes())
  coder = scale_rounding.ShiftCoder()
  for size, shifts in zip(sizes, written, strict=True):
    np.testing.assert_array_equal(coder.decode(decoder, size), shifts)


def test_shifts_cost_about_two_bits_an_element_in_danger():
  encoder, coder = range_coder.Encoder(), scale_rounding.ShiftCoder()
  endangered = 0
  for seed in range(10):
    index = _indices("clipped", 49_152, seed)
    nearest = np.floor(index) + 0.5
    endangered += np.sum((np.abs(index - nearest) <= MARGIN) & (index > 0))
    coder.encode(encoder, scale_rounding.choose_shifts(index))
  assert 50 < endangered < 200
  assert 1.4 * endangered < encoder.bits_spent < 3.2 * endangered


def test_a_shift_that_does_not_exist_is_refused():
  encoder, coder = range_coder.Encoder(), scale_rounding.ShiftCoder()
  coder.encode(encoder, np.full(1, scale_rounding.NUM_SHIFTS, np.int32))
  decoder = range_coder.Decoder(encoder.get_bytes())
  with pytest.raises(container.BitstreamError, match="beyond the last"):
    scale_rounding.ShiftCoder().decode(decoder, 10)


def test_tables_of_shifts_are_geometric_and_sound():
  tables = scale_rounding.geometric_tables()
  tables.check()
  for k in range(len(tables)):
    numbers = tables[k][:-1].astype(np.float64)
    expectation = np.sum(numbers * np.arange(numbers.size)) / numbers.sum()
    assert expectation == pytest.approx(0.75 * 2**k, rel=0.01), k
    assert tables[k][-1] < 2e-4 * 2**24


def test_later_slices_know_what_shifts_to_expect():
  shifts = np.random.default_rng(0).geometric(1 / 200, 64).astype(np.int32)
  encoder, coder = range_coder.Encoder(), scale_rounding.ShiftCoder()
  ends = [0.0]
  for _ in range(3):
    coder.encode(encoder, shifts)
    ends.append(encoder.bits_spent)
  first, second, third = np.diff(ends)
  assert second < 0.75 * first
  assert third == pytest.approx(second, rel=0.05)


@pytest.mark.parametrize("size", [1, 7, 8193, 12345, 49152, 50001])
def test_groups_are_as_the_format_says(size):
  # docs/file_format.md: element e is in group e * groups // size.
  # On a boundary, and shifted by turns up and down: each element tells its group.
  index = np.full(size, 10.5, np.float32)
  groups = scale_rounding.num_groups(size)
  shifts = 1 + np.arange(groups) % 2
  group = np.arange(size) * groups // size
  np.testing.assert_array_equal(
    scale_rounding.round_indices(index, shifts), 11 - group % 2
  )


@pytest.mark.parametrize("first", [0.5, 1.5, 62.5])
def test_indices_a_little_below_a_boundary_count(first):
  # They reach it with shifts of +u to +30u: the first that is free is -u.
  unit = 2 * scale_rounding.MARGIN
  index = (first - unit * np.arange(31)).astype(np.float32)
  assert scale_rounding.choose_shifts(index).tolist() == [2]
  # And those above with -u to -30u.
  index = (first + unit * np.arange(31)).astype(np.float32)
  assert scale_rounding.choose_shifts(index).tolist() == [1]
