"""The least time of a step, by hand."""

import pytest

from egic_jax.training import chips

_CHIP = chips.Chip("vX", 100e12, 1000e9, 16 * chips.GIB, 50e9)


def test_the_slowest_part_counts():
  times = chips.roofline(
    _CHIP, flops=2e12, bytes_accessed=30e9, sent_bytes=0.5e9
  )
  assert times.compute == pytest.approx(0.02)
  assert times.memory == pytest.approx(0.03)
  assert times.links == pytest.approx(0.01)
  assert times.step == times.memory
  assert times.bound == "memory"


def test_each_part_can_be_the_slowest():
  def bound(**work):
    none = {"flops": 0.0, "bytes_accessed": 0.0, "sent_bytes": 0.0}
    return chips.roofline(_CHIP, **(none | work)).bound

  assert bound(flops=1e12) == "compute"
  assert bound(bytes_accessed=1e9) == "memory"
  assert bound(sent_bytes=1e9) == "links"


def test_published_figures():
  v5e = chips.CHIPS["v5e"]
  # 197 TFLOP/s and 819 GB/s: 240 FLOP for a byte.
  assert v5e.peak_flops / v5e.hbm_bytes_per_second == pytest.approx(240, abs=1)
  assert v5e.hbm_bytes == 16 * 2**30
  assert chips.CHIPS["v5p"].hbm_bytes == 95 * 2**30
