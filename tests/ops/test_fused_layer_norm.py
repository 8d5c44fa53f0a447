"""The kernels of layer normalisation, interpreted, against the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import (
  fused_layer_norm,
  gpu_kernel,
  layer_norm,
  space_to_depth,
)

# Powers of two, others, and numbers of tokens that no block divides.
SHAPES = [(2, 8, 8, 128), (3, 5, 7, 96), (1, 4, 4, 320)]


def _compare(shape, dtype, slack, with_branch):
  rng = np.random.default_rng(0)
  wide = gpu_kernel.wide(dtype)

  def normal(shape, dtype=dtype):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  x = 3 * normal(shape) + 1
  branch = (normal(shape), normal(shape[-1:])) if with_branch else (None, None)
  scale, bias = (normal(shape[-1:], wide) for _ in range(2))
  gradients = (normal(shape), normal(shape))

  def plain(x, branch, branch_bias, scale, bias):
    if branch is not None:
      x = x + (branch + branch_bias)
    return x, layer_norm.layer_norm(x, scale, bias).astype(x.dtype)

  def fused(*args):
    return fused_layer_norm.layer_norm_of_sum(*args, interpret=True)

  found = []
  for function in (plain, fused):
    outs, pull = jax.vjp(function, x, *branch, scale, bias)
    found.append(jax.tree.leaves((outs, pull(gradients))))
  assert len(found[0]) == 2 + 3 + 2 * with_branch
  for plain, fused in zip(*found, strict=True):
    assert fused.dtype == plain.dtype and fused.shape == plain.shape
    plain, fused = np.asarray(plain, np.float64), np.asarray(fused, np.float64)
    largest = np.abs(plain).max()
    np.testing.assert_allclose(fused, plain, rtol=0, atol=slack * largest)


@pytest.mark.parametrize("with_branch", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_plain_one(shape, with_branch, float64):
  _compare(shape, jnp.float64, 1e-13, with_branch)


@pytest.mark.parametrize("with_branch", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_it_differs_by_rounding(shape, with_branch):
  _compare(shape, jnp.bfloat16, 0.02, with_branch)


@pytest.mark.parametrize("shape", [(2, 8, 6, 32), (3, 4, 10, 48)])
@pytest.mark.parametrize("merged", [True, False])
def test_phases_move_meanwhile(merged, shape, float64):
  rng = np.random.default_rng(0)
  x = jnp.asarray(3 * rng.standard_normal(shape) + 1)
  channels = (4 if merged else 1) * shape[-1]
  scale, bias = (jnp.asarray(rng.standard_normal(channels)) for _ in range(2))

  def plain(x, scale, bias):
    if merged:
      return layer_norm.layer_norm(space_to_depth.merge_phases(x), scale, bias)
    normal = layer_norm.layer_norm(x, scale, bias)
    return space_to_depth.depth_to_space(normal)

  def fused(*args):
    return fused_layer_norm.layer_norm_of_phases(
      *args, merged=merged, interpret=True
    )

  found = []
  for function in (plain, fused):
    out, pull = jax.vjp(function, x, scale, bias)
    gradient = np.random.default_rng(1).standard_normal(out.shape)
    found.append((out, *pull(jnp.asarray(gradient))))
  for plain, fused in zip(*found, strict=True):
    assert fused.dtype == plain.dtype and fused.shape == plain.shape
    np.testing.assert_allclose(fused, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("used", [0, 1])
def test_what_is_not_used_has_no_gradient(used, monkeypatch, float64):
  call, inputs = gpu_kernel.call, {}

  def counting(*args, name, **options):
    def run(*arrays):
      inputs[name] = len(arrays)
      return call(*args, name=name, **options)(*arrays)

    return run

  monkeypatch.setattr(gpu_kernel, "call", counting)
  rng = np.random.default_rng(0)
  x, gradient = (jnp.asarray(rng.standard_normal((2, 8, 32))) for _ in range(2))
  scale, bias = (jnp.asarray(rng.standard_normal(32)) for _ in range(2))

  @jax.jit
  def pull(x, scale, bias, gradient):
    def one(*args):
      x, *row = args
      parts = (x, None, None, *row)
      return fused_layer_norm.layer_norm_of_sum(*parts, interpret=True)[used]

    return jax.vjp(one, x, scale, bias)[1](gradient)

  def plain(x, scale, bias):
    return (x, layer_norm.layer_norm(x, scale, bias))[used]

  found = pull(x, scale, bias, gradient)
  expected = jax.vjp(plain, x, scale, bias)[1](gradient)
  for ours, theirs in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
  # Zeros beside the gradient of what is normalised are neither written nor read.
  assert inputs["layer_norm_gradient"] == 4 - used


def test_blocks_are_shared_out_over_programs(monkeypatch, float64):
  # Four blocks of two programs' turn each.
  monkeypatch.setattr(fused_layer_norm, "_PROGRAMS", 2)
  jax.clear_caches()
  _compare((2, 8, 8, 128), jnp.float64, 1e-13, True)
  jax.clear_caches()


def test_needs_at_most_32_bits_and_not_too_many_channels(monkeypatch):
  usable = fused_layer_norm.usable
  assert not usable(channels=128, dtype=jnp.bfloat16)  # A CPU.
  monkeypatch.setattr(gpu_kernel, "available", lambda kind: True)
  assert usable(channels=128, dtype=jnp.bfloat16)
  assert usable(channels=128, dtype=jnp.float32)
  assert not usable(channels=128, dtype=jnp.float64)
  assert not usable(channels=4096, dtype=jnp.bfloat16)
