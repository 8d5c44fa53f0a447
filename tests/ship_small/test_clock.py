"""Shares of the time, and what fits the time of a slice."""

import time

import clock as clock_lib
import jax.numpy as jnp
import numpy as np
import plan
import pytest

STAGE = "stage2_gan"


def _start(settings, length, *, seconds=600, max_updates=None, **position):
  clock = clock_lib.Clock(
    settings,
    length,
    seconds=seconds,
    started=time.monotonic(),
    max_updates=max_updates,
  )
  start = clock_lib.start_position(settings, "micro")
  return clock, start | {"stage": STAGE} | position


def test_a_stage_gets_its_share_of_the_time_that_is_left(settings):
  clock, position = _start(settings, plan.Length(4000), seconds=600)
  position |= {"seconds": 1000.0}
  clock.plan(position)
  assert position["planned"][STAGE] == pytest.approx(1500, rel=0.01)
  assert position["spent"][STAGE] == 0
  position |= {"update": 10}
  position["spent"][STAGE] = 750.0
  # Fixed: no later slice has less of it, whatever it compiles.
  position["seconds"] += 900.0
  clock.plan(position)
  assert position["planned"][STAGE] == pytest.approx(1500, rel=0.01)
  # The next slice is told of more minutes, or fewer.
  for total, expected in ((8000, 3500), (2000, 500)):
    clock, _ = _start(settings, plan.Length(total))
    clock.plan(position)
    assert position["planned"][STAGE] == pytest.approx(expected, rel=0.01)
  assert clock.is_done(position)


def test_rates_follow_the_clock(settings):
  clock, position = _start(settings, plan.Length(4000), update=10)
  position["planned"][STAGE] = 1000.0
  position["spent"][STAGE] = 750.0
  origin, slope = clock.progress(position, 0.5)
  assert origin + slope * 10 == pytest.approx(0.75, abs=0.01)
  assert slope == pytest.approx(0.0005)
  assert plan.rate_factor(jnp.float32(origin + 510 * slope), 0.2) < 1e-3


def test_as_many_updates_as_fit(settings):
  """The device's turn, the stage, the slice; none without time."""
  clock, position = _start(settings, plan.Length(4000))
  position["planned"][STAGE] = 1000.0
  turn = settings.dispatch_seconds
  assert clock.next_count(position, None) == 1
  assert clock.next_count(position, turn / 8) == 8
  position["spent"][STAGE] = 1000.0 - 0.55 * turn
  assert clock.next_count(position, turn / 8) == 5
  position["spent"][STAGE] = 1000.0
  assert clock.next_count(position, turn / 8) == 0
  position["spent"][STAGE] = 0.0
  reserve = clock.reserve()
  clock, _ = _start(settings, plan.Length(4000), seconds=reserve + 60.0)
  assert clock.next_count(position, 100.0) == 0
  assert clock.next_count(position, 40.0) == 1
  clock, _ = _start(settings, plan.Length(4000), seconds=reserve)
  assert clock.next_count(position, turn / 8) == 0
  assert clock.next_count(position, None) == 0
  assert not clock.is_over()
  clock, _ = _start(settings, plan.Length(4000), seconds=0.0)
  assert clock.is_over()
  clock, _ = _start(settings, plan.Length(4000), max_updates=3)
  assert clock.next_count(position, turn / 8) == 3
  clock.count(position, 3, 6)
  assert clock.is_over() and position["images"] == 6


def test_updates_are_planned_alike(settings):
  clock, position = _start(settings, plan.Length(6, counts_updates=True))
  clock.plan(position)
  assert position["planned"][STAGE] == 3
  clock.count(position, 2, 4)
  assert clock.progress(position, 0.5) == (0.0, 1 / 3)
  assert clock.next_count(position, 1e-6) == 1
  assert not clock.is_done(position)
  clock.count(position, 1, 2)
  assert clock.is_done(position)


def test_the_plan_of_a_size_is_whole():
  for name in plan.SETTINGS:
    settings = plan.get_settings(name)
    length, gone = plan.Length(1000.0), 0.0
    total = sum(stage.share for stage in settings.stages.values())
    for stage, its in settings.stages.items():
      planned = length.of_stage(settings, stage, gone)
      # Nothing else took time: its own share, no more and no less.
      assert planned == pytest.approx(1000.0 * its.share / total)
      gone += planned
    assert gone == pytest.approx(1000.0)
    # Behind time, every stage still has half of its share.
    assert length.of_stage(settings, stage, 5000.0) == pytest.approx(
      500 * settings.stages[stage].share / total
    )
  with pytest.raises(ValueError, match="no such size"):
    plan.get_settings("huge")
  with pytest.raises(ValueError, match="must be float32 or bfloat16"):
    plan.replace_dtype(settings, "int8")
  factors = plan.rate_factor(jnp.linspace(0, 1.2, 7), 0.2)
  np.testing.assert_allclose(factors, [1, 1, 0.75, 0.5, 0.25, 0, 0], atol=1e-6)
