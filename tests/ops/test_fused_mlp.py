"""The kernels of an MLP, interpreted, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import fused_mlp, gelu, gpu_kernel

# (shape of the map, hidden width, width of the output).
CASES = [
  ((2, 8, 8, 32), 128, 32),
  ((1, 16, 24, 48), 192, 80),
  ((3, 16, 16, 96), 384, 96),
]


def _plain(x, kernel_in, bias_in, kernel_out):
  return gelu.gelu(x @ kernel_in + bias_in) @ kernel_out


def _compare(case, dtype, slack):
  shape, hidden, width = case
  rng = np.random.default_rng(0)

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  channels = shape[-1]
  args = (
    normal(*shape),
    normal(channels, hidden) / channels**0.5,
    normal(hidden),
    normal(hidden, width) / hidden**0.5,
  )
  gradient = normal(*shape[:-1], width)

  def fused(*args):
    return fused_mlp.mlp(*args, interpret=True)

  found = []
  for function in (_plain, fused):
    out, pull = jax.vjp(function, *args)
    found.append((function(*args), out, *pull(gradient)))
  for plain, fused in zip(*found, strict=True):
    assert fused.dtype == plain.dtype and fused.shape == plain.shape
    plain, fused = np.asarray(plain, np.float64), np.asarray(fused, np.float64)
    largest = np.abs(plain).max()
    np.testing.assert_allclose(fused, plain, rtol=0, atol=slack * largest)


@pytest.mark.parametrize("case", CASES)
def test_is_the_plain_one(case, float64, monkeypatch):
  def with_slope(x):
    active, pull = jax.vjp(gelu.gelu, x)
    return active, pull(jnp.ones_like(x))[0]

  monkeypatch.setattr(gelu, "of_kernels", gelu.gelu)
  monkeypatch.setattr(gelu, "of_kernels_with_slope", with_slope)
  jax.clear_caches()
  _compare(case, jnp.float64, 1e-13)
  jax.clear_caches()


@pytest.mark.parametrize("programs", [1, 5])
def test_programs_go_through_several_tiles(programs, float64, monkeypatch):
  # Five programs, twelve tiles down and three across: one group of three. Of seven
  # and two across, three groups, one of which has fewer.
  monkeypatch.setattr(fused_mlp, "_PROGRAMS", programs)
  monkeypatch.setattr(fused_mlp, "_PROGRAMS_BACK", programs)
  jax.clear_caches()
  _compare(CASES[2], jnp.float64, 2e-5)
  _compare(((7, 8, 8, 32), 256, 32), jnp.float64, 2e-5)
  jax.clear_caches()


def test_error_function_is_good_enough(float64):
  _compare(CASES[0], jnp.float64, 2e-5)


@pytest.mark.parametrize("case", CASES[:1])
def test_in_bfloat16_it_differs_by_rounding(case):
  _compare(case, jnp.bfloat16, 0.02)


def test_needs_16_bits_and_sides_that_can_be_cut(monkeypatch):
  sides = {"tokens": 4096, "channels": 320, "hidden": 1280}
  usable = fused_mlp.usable
  assert not usable(**sides, dtype=jnp.bfloat16)  # A CPU.
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  assert usable(**sides, dtype=jnp.bfloat16)
  assert not usable(**sides, dtype=jnp.float32)
  for name, side in {"tokens": 4104, "channels": 328, "hidden": 1288}.items():
    assert not usable(**{**sides, name: side}, dtype=jnp.bfloat16)
