"""Every kernel can be written down for an NVIDIA GPU; none is needed for it.

Interpreted, kernels may use operations that the GPU's form has not: this is where
those show.
"""

import contextlib
import inspect
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from egic_jax.ops import (
  fused_attention,
  fused_layer_norm,
  fused_mlp,
  many_arrays,
  windows,
)

_CUSTOM_CALLS = ("__gpu$xla.gpu.triton", "triton_kernel_call")


def _described_gpu():
  """A context in which jax knows for which GPU, where it wants to."""
  wanted = inspect.signature(jax.sharding.AbstractDevice).parameters
  if "platform" not in wanted:
    return contextlib.nullcontext()
  device = jax.sharding.AbstractDevice(
    device_kind="NVIDIA H200", num_cores=132, platform="gpu"
  )
  mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
  return jax.sharding.use_abstract_mesh(mesh)


def _kernels(function, *shapes):
  """Names of the kernels in a function and its gradient, as lowered for CUDA."""
  checks = [export.DisabledSafetyCheck.custom_call(c) for c in _CUSTOM_CALLS]
  with _described_gpu():
    program = export.export(
      jax.jit(function), platforms=["cuda"], disabled_checks=checks
    )(*shapes)
  return program.mlir_module()


def _with_gradient(function):
  def run(*args):
    out, pull = jax.vjp(function, *args)
    return out, pull(out)

  return run


def _map(*shape, dtype=jnp.bfloat16):
  return jax.ShapeDtypeStruct(shape, dtype)


def _row(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


# Widths that are powers of two, and others.
@pytest.mark.parametrize("channels", [128, 192])
def test_mlp(channels):
  text = _kernels(
    _with_gradient(fused_mlp.mlp),
    _map(2, 16, 16, channels),
    _row(channels, 4 * channels),
    _row(4 * channels),
    _row(4 * channels, channels),
  )
  assert "mlp_in" in text and "mlp_gradient" in text
  # Products with a sum in one, powers and reciprocals are the chip's.
  for instruction in ("fma.rn.f32", "ex2.approx.ftz.f32", "rcp.approx.ftz.f32"):
    assert instruction in text


@pytest.mark.parametrize("channels", [128, 192])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("with_branch", [False, True])
def test_layer_norm(channels, dtype, with_branch):
  x, row = _map(2, 8, 8, channels, dtype=dtype), _row(channels)
  branch = (x, row) if with_branch else (None, None)
  text = _kernels(
    _with_gradient(fused_layer_norm.layer_norm_of_sum), x, *branch, row, row
  )
  name = "layer_norm_of_sum" if with_branch else "layer_norm"
  assert name in text and "layer_norm_gradient" in text


@pytest.mark.parametrize(
  "window, dtype", [(8, jnp.bfloat16), (4, jnp.bfloat16), (4, jnp.float32)]
)
def test_attention(window, dtype):
  heads, tokens, channels = 3, window**2, 96

  def attend(qkv, bias, position):
    return fused_attention.window_attention(
      qkv,
      bias,
      position,
      windows.regions(16, 16, window, window // 2),
      window=window,
      shift=window // 2,
      num_heads=heads,
    )

  text = _kernels(
    _with_gradient(attend),
    _map(2, 16, 16, 3 * channels, dtype=dtype),
    _row(3 * channels),
    _row(heads, tokens, tokens),
  )
  assert "window_attention_gradient" in text
  assert "fma.rn.f32" in text and "ex2.approx.ftz.f32" in text


def test_many_arrays():
  shapes = [_row(3), _row(40, 70), _row(2048)]

  def run(old, older, beside):
    new = many_arrays.update(
      lambda scalars, a, b, c: (a - scalars[0] * c / jnp.sqrt(c * c), b + c),
      jnp.ones(1),
      (old, older),
      (beside,),
      name="some_update",
    )
    return new, many_arrays.sum_of_squares(beside)

  text = _kernels(run, shapes, shapes, shapes)
  assert "some_update" in text and "sum_of_squares" in text
  # All that is replaced is written over: two lists of three arrays.
  pairs = re.findall(
    r"output_tuple_indices = \[(\d+)\],\s*operand_index = (\d+)", text
  )
  expected = [(2 * i + k, 1 + 3 * i + k) for i in range(3) for k in range(2)]
  assert sorted((int(a), int(b)) for a, b in pairs) == expected
