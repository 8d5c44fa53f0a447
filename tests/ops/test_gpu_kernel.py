"""Which devices have kernels of their own."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import gpu_kernel


@pytest.fixture
def device(monkeypatch):
  """Has the default device be another."""

  def pretend(platform, capability):
    found = types.SimpleNamespace(
      platform=platform, compute_capability=capability
    )
    # What is cached must be hashable.
    found = type("Device", (), vars(found))()
    monkeypatch.setattr(gpu_kernel.jax, "local_devices", lambda: [found])

  return pretend


@pytest.mark.parametrize(
  "platform, capability, expected",
  [
    ("gpu", "9.0", True),
    ("gpu", "8.0", True),
    ("gpu", "12.0", True),
    ("gpu", "7.5", False),
    ("gpu", "gfx942", False),
    ("cpu", None, False),
    ("tpu", None, False),
  ],
)
def test_needs_an_nvidia_gpu_of_some_age(
  device, platform, capability, expected
):
  device(platform, capability)
  assert gpu_kernel.available("mlp") is expected


def test_can_be_switched_off(device, monkeypatch):
  device("gpu", "9.0")
  for setting, expected in {
    "off": (),
    "on": gpu_kernel.KINDS,
    "": gpu_kernel.KINDS,
    "mlp": ("mlp",),
    "adam, Attention": ("adam", "attention"),
  }.items():
    monkeypatch.setenv(gpu_kernel.SWITCH, setting)
    found = [kind for kind in gpu_kernel.KINDS if gpu_kernel.available(kind)]
    assert found == list(expected)
  monkeypatch.setenv(gpu_kernel.SWITCH, "mpl")
  with pytest.raises(ValueError, match="EGIC_KERNELS=mpl: must be on, off, or"):
    gpu_kernel.available("mlp")


def test_divisors():
  assert gpu_kernel.divisor_from(12, 4) == 4
  assert gpu_kernel.divisor_from(12, 5) == 6
  assert gpu_kernel.divisor_from(7, 2) == 7
  assert gpu_kernel.divisor_from(3, 3) == 3


def test_interpreted_instructions_are_the_plain_ones():
  shape = jnp.zeros((16, 32))

  def kernel(x_ref, *out_refs):
    rows, columns = jnp.arange(16), jnp.arange(32)
    x = gpu_kernel.load(x_ref, rows, columns)
    found = (
      gpu_kernel.multiply_add(x, rows[:, None].astype(x.dtype), 0.25),
      gpu_kernel.exp2(x),
      gpu_kernel.reciprocal(x + 8),
      gpu_kernel.settled(x),
    )
    for ref, values in zip(out_refs, found, strict=True):
      gpu_kernel.store(ref, rows, columns, values)

  x = np.random.default_rng(0).standard_normal(shape.shape).astype(np.float32)
  found = gpu_kernel.call(kernel, 1, [shape] * 4, name="some", interpret=True)(
    x
  )
  expected = (x * np.arange(16)[:, None] + 0.25, 2.0**x, 1 / (x + 8), x)
  for ours, plain in zip(found, expected, strict=True):
    np.testing.assert_allclose(ours, plain, rtol=1e-6, atol=1e-6)
