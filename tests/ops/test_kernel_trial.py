"""Kernels that fail on a machine are found out, and left to the compiler."""

import types

import jax
import numpy as np
import pytest

from egic_jax.bitstream import programs
from egic_jax.ops import gpu_kernel, kernel_trial
from egic_jax.training import trainer


@pytest.fixture(autouse=True)
def anew(monkeypatch):
  """Nothing tried before, nothing left out afterwards."""
  monkeypatch.setattr(gpu_kernel, "_left_out", set())
  forget = kernel_trial.failure.cache_clear
  for clear in (forget, jax.clear_caches):
    clear()
  yield
  for clear in (forget, jax.clear_caches):
    clear()


@pytest.fixture
def gpu(monkeypatch):
  """As if there were a GPU for kernels, on which none compiles."""
  monkeypatch.setattr(gpu_kernel, "_runs", lambda device: True)


@pytest.mark.parametrize("kind", gpu_kernel.KINDS)
def test_kernels_pass(kind):
  assert kernel_trial.failure(kind, interpret=True) is None


@pytest.mark.parametrize(
  "kind, kernel",
  [
    ("adam", "adam"),
    ("adam", "sum_of_squares"),
    ("attention", "window_attention"),
    ("attention", "window_attention_gradient"),
    ("layer_norm", "layer_norm"),
    ("layer_norm", "layer_norm_gradient"),
    ("layer_norm", "layer_norm_of_sum"),
    ("mlp", "mlp_gradient"),
    ("mlp", "mlp_in"),
  ],
)
def test_wrong_numbers_are_noticed(monkeypatch, kind, kernel):
  factor = float("nan") if kernel == "layer_norm" else 0.9
  right = gpu_kernel.call

  def call(*args, name, **options):
    run = right(*args, name=name, **options)
    if name != kernel:
      return run
    return lambda *inputs: [out * factor for out in run(*inputs)]

  monkeypatch.setattr(gpu_kernel, "call", call)
  reason = kernel_trial.failure(kind, interpret=True)
  assert reason.startswith("what they compute is off by ")


def test_what_does_not_compile_is_left_out(gpu):
  assert gpu_kernel.available("mlp") and gpu_kernel.available("adam")
  (line,) = kernel_trial.leave_out_failing(["mlp"])
  assert line.startswith("kernels for mlp are left to XLA: ValueError: ")
  assert "\n" not in line
  assert not gpu_kernel.available("mlp") and gpu_kernel.available("adam")
  # Told once.
  assert kernel_trial.leave_out_failing(["mlp"]) == []


def test_processes_leave_out_the_same(gpu, monkeypatch):
  monkeypatch.setattr(
    kernel_trial, "failure", lambda kind: "broken" if kind == "mlp" else None
  )
  asked = []

  def agreed(here):
    asked.append(here)
    return here and len(asked) != 1

  lines = kernel_trial.leave_out_failing(gpu_kernel.KINDS, agreed)
  assert asked == [True, True, True, False]
  assert lines == [
    "kernels for adam are left to XLA: another process cannot use them",
    "kernels for mlp are left to XLA: broken",
  ]
  left = [kind for kind in gpu_kernel.KINDS if gpu_kernel.available(kind)]
  assert left == ["attention", "layer_norm"]


def test_training_and_coding_try_them_first(gpu, monkeypatch):
  lines = []
  device = types.SimpleNamespace(platform="gpu")
  mesh = types.SimpleNamespace(devices=np.array([device]))
  trainer._try_kernels(mesh, lines.append)
  assert len(lines) == len(gpu_kernel.KINDS)

  monkeypatch.setattr(gpu_kernel, "_left_out", set())
  programs._try_kernels()  # On a CPU there is nothing to try.
  assert gpu_kernel.available("layer_norm")
  monkeypatch.setattr(programs.jax, "default_backend", lambda: "gpu")
  with pytest.warns(RuntimeWarning, match="kernels for layer_norm are left"):
    programs._try_kernels()
  assert not gpu_kernel.available("layer_norm")
  assert gpu_kernel.available("attention")
  with pytest.warns(RuntimeWarning, match="kernels for attention are left"):
    programs._try_kernels("attention")


def test_no_such_kernels():
  with pytest.raises(ValueError, match="no kernels mpl; there are adam"):
    kernel_trial.failure("mpl")
