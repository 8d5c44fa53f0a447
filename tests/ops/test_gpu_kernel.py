"""Which devices have kernels of their own."""

import types

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
