"""The kernels of layer normalisation, interpreted, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import fused_layer_norm, gpu_kernel, layer_norm

# Powers of two, others, and numbers of tokens that no block divides.
SHAPES = [(2, 8, 8, 128), (3, 5, 7, 96), (1, 4, 4, 320)]


def _compare(shape, dtype, slack):
  rng = np.random.default_rng(0)
  x = jnp.asarray(3 * rng.standard_normal(shape) + 1, dtype)
  wide = gpu_kernel.wide(dtype)
  scale, bias = (
    jnp.asarray(rng.standard_normal(shape[-1]), wide) for _ in range(2)
  )
  gradients = tuple(
    jnp.asarray(rng.standard_normal(shape), dtype) for _ in range(2)
  )

  def plain(x, scale, bias):
    return x, layer_norm.layer_norm(x, scale, bias).astype(x.dtype)

  def fused(x, scale, bias):
    return fused_layer_norm.layer_norm_and_input(x, scale, bias, interpret=True)

  found = []
  for function in (plain, fused):
    outs, pull = jax.vjp(function, x, scale, bias)
    found.append((*outs, *pull(gradients)))
  for plain, fused in zip(*found, strict=True):
    assert fused.dtype == plain.dtype and fused.shape == plain.shape
    plain, fused = np.asarray(plain, np.float64), np.asarray(fused, np.float64)
    largest = np.abs(plain).max()
    np.testing.assert_allclose(fused, plain, rtol=0, atol=slack * largest)


@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_plain_one(shape, float64):
  _compare(shape, jnp.float64, 1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_differs_by_rounding(shape):
  _compare(shape, jnp.bfloat16, 0.01)


def test_blocks_are_shared_out_over_programs(monkeypatch, float64):
  # Four blocks of two programs' turn each.
  monkeypatch.setattr(fused_layer_norm, "_PROGRAMS", 2)
  jax.clear_caches()
  _compare((2, 8, 8, 128), jnp.float64, 1e-13)
  jax.clear_caches()


def test_needs_16_bits_and_not_too_many_channels(monkeypatch):
  usable = fused_layer_norm.usable
  assert not usable(channels=128, dtype=jnp.bfloat16)  # A CPU.
  monkeypatch.setattr(gpu_kernel, "available", lambda: True)
  assert usable(channels=128, dtype=jnp.bfloat16)
  assert not usable(channels=128, dtype=jnp.float32)
  assert not usable(channels=4096, dtype=jnp.bfloat16)
