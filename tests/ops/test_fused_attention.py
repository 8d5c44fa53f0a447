"""The kernel of window attention, interpreted, against the plain formulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import attention, fused_attention, gpu_kernel, windows

# Batch, height, width, window, shift, heads: whole windows, windows that must
# be completed, one window, and more windows than programs take in turn.
CASES = [
  (2, 16, 24, 8, 4, 2),
  (1, 16, 16, 8, 0, 3),
  (2, 10, 13, 4, 2, 2),
  (1, 8, 8, 8, 0, 1),
]
HEAD_WIDTH = 16


def _inputs(case, dtype):
  batch, height, width, window, _, heads = case
  rng = np.random.default_rng(0)
  channels = heads * HEAD_WIDTH
  qkv = rng.standard_normal((batch, height, width, 3 * channels)) * 2
  qkv_bias = rng.standard_normal(3 * channels)
  position_bias = rng.standard_normal((heads, window**2, window**2))
  gradient = rng.standard_normal((batch, height, width, channels))
  narrow = [jnp.asarray(x, dtype) for x in (qkv, qkv_bias, gradient)]
  wide = gpu_kernel.wide(dtype)
  return narrow[0], narrow[1], jnp.asarray(position_bias, wide), narrow[2]


def _plain(case, regions):
  _, height, width, window, shift, heads = case

  def run(qkv, qkv_bias, position_bias):
    # The bias first: tokens that complete a window have it too.
    missing = (-height % window, -width % window)
    qkv = jnp.pad(qkv, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    cut = windows.partition(qkv + qkv_bias, window, shift)
    out = attention.window_attention(
      cut, position_bias, regions, num_heads=heads
    )
    return windows.merge(out, window, height, width, shift)

  return run


def _fused(case, regions):
  _, _, _, window, shift, heads = case

  def run(qkv, qkv_bias, position_bias):
    return fused_attention.window_attention(
      qkv,
      qkv_bias,
      position_bias,
      regions,
      window=window,
      shift=shift,
      num_heads=heads,
      interpret=True,
    )

  return run


def _compare(case, dtype, slack):
  _, height, width, window, shift, _ = case
  *inputs, gradient = _inputs(case, dtype)
  regions = windows.regions(height, width, window, shift)
  found = []
  for make in (_plain, _fused):
    out, pull = jax.vjp(make(case, regions), *inputs)
    found.append((out, *pull(gradient)))
  for name, plain, fused in zip(
    ("out", "qkv", "qkv bias", "position bias"), *found, strict=True
  ):
    assert fused.dtype == plain.dtype and fused.shape == plain.shape, name
    plain, fused = np.asarray(plain, np.float64), np.asarray(fused, np.float64)
    largest = np.abs(plain).max()
    np.testing.assert_allclose(
      fused, plain, rtol=0, atol=slack * largest, err_msg=name
    )


@pytest.mark.parametrize("case", CASES)
def test_is_the_plain_one(case, float64):
  _compare(case, jnp.float64, 1e-13)


@pytest.mark.parametrize("case", CASES[:1])
def test_in_bfloat16_it_differs_by_rounding(case):
  _compare(case, jnp.bfloat16, 0.05)


@pytest.mark.parametrize("programs", [4, 10])
def test_windows_are_shared_out_over_programs(programs, monkeypatch, float64):
  # Two programs for each head, twelve windows: each adds up six. Or five, which
  # have three or two.
  monkeypatch.setattr(fused_attention, "_PROGRAMS", programs)
  jax.clear_caches()
  _compare(CASES[0], jnp.float64, 1e-13)
  jax.clear_caches()


def test_regions_may_be_computed(float64):
  case = CASES[0]
  _, height, width, window, shift, _ = case
  *inputs, _ = _inputs(case, jnp.float64)
  valid = (np.int32(11), np.int32(17))

  @jax.jit
  def both(valid, *inputs):
    regions = windows.regions(height, width, window, shift, valid)
    return _plain(case, regions)(*inputs), _fused(case, regions)(*inputs)

  plain, fused = both(valid, *inputs)
  plain, fused = (x[:, : valid[0], : valid[1]] for x in (plain, fused))
  np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-12)


def test_needs_16_bits_and_powers_of_two(monkeypatch):
  usable = fused_attention.usable
  assert not usable(window=8, head_width=32, dtype=jnp.bfloat16)  # A CPU.
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  assert usable(window=8, head_width=32, dtype=jnp.bfloat16)
  assert not usable(window=8, head_width=32, dtype=jnp.float32)
  assert not usable(window=7, head_width=32, dtype=jnp.bfloat16)
  assert not usable(window=8, head_width=24, dtype=jnp.bfloat16)
  assert not usable(window=2, head_width=32, dtype=jnp.bfloat16)


def test_wide_numbers_are_for_small_windows_and_rounded_factors(monkeypatch):
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  usable = functools.partial(
    fused_attention.usable, head_width=32, dtype=jnp.float32
  )
  assert usable(window=4)
  assert not usable(window=8)
  with jax.default_matmul_precision("highest"):
    assert not usable(window=4)
