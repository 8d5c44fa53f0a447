"""The benchmark of kernels' tiles changes constants that there are."""

import importlib.util
import pathlib
import sys

import jax
import pytest

_FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu_tiles(monkeypatch):
  monkeypatch.syspath_prepend(str(_FOLDER))
  spec = importlib.util.spec_from_file_location(
    "gpu_tiles", _FOLDER / "gpu_tiles.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  yield module
  sys.modules.pop("gpu_kernels", None)


def test_constants_are_those_of_the_kernels(gpu_tiles):
  for name, kernel in gpu_tiles.KERNELS.items():
    now = tuple(getattr(kernel.module, constant) for constant in kernel.names)
    for row in kernel.rows:
      assert len(row) == len(now), name
    constants = dict(zip(kernel.names, kernel.rows[0], strict=True))
    with gpu_tiles._changed(kernel.module, **constants):
      assert getattr(kernel.module, kernel.names[0]) == kernel.rows[0][0]
    assert now == tuple(getattr(kernel.module, n) for n in kernel.names)


def test_every_kernel_takes_its_arguments(gpu_tiles, monkeypatch):
  # Interpreted kernels have the same arguments; nothing is computed.
  call = gpu_tiles.gpu_kernel.call
  names = []

  def interpreted(*args, name, interpret, **options):
    names.append(name)
    return call(*args, name=name, interpret=True, **options)

  monkeypatch.setattr(gpu_tiles.gpu_kernel, "call", interpreted)
  for kernel in gpu_tiles.KERNELS:
    function, shapes = gpu_tiles.case(kernel, 2, 16, 64)
    with gpu_tiles._renamed("variant7"):
      jax.eval_shape(function, *(jax.ShapeDtypeStruct(*s) for s in shapes))
  assert len(names) >= len(gpu_tiles.KERNELS)
  assert all(name.endswith("_variant7") for name in names)
