"""Metrics and their way to TensorBoard; the one file that knows clu.

clu is no longer developed, and its writers import TensorFlow for the sake of
one class. That class is replaced here, before clu is loaded, by the same
interface over tensorboardX, so no TensorFlow is needed.
"""

import os
import sys
import types
from typing import Any

import jax
import numpy as np
import tensorboardX

_SUMMARY_MODULE = "clu.metric_writers.summary_writer"


class _SummaryWriter:
  """Writes event files; clu passes these arguments by keyword."""

  def __init__(self, logdir: str):
    self._writer = tensorboardX.SummaryWriter(logdir, write_to_disk=True)

  def write_scalars(self, step, scalars):
    for name, value in scalars.items():
      self._writer.add_scalar(name, float(value), step)

  def write_images(self, step, images):
    for name, value in images.items():
      self._writer.add_images(name, np.asarray(value), step, dataformats="NHWC")

  def write_texts(self, step, texts):
    for name, value in texts.items():
      self._writer.add_text(name, value, step)

  def write_hparams(self, hparams):
    text = "\n".join(f"    {k} = {v}" for k, v in hparams.items())
    self._writer.add_text("configuration", text)

  def flush(self):
    self._writer.flush()

  def close(self):
    self._writer.close()


if _SUMMARY_MODULE not in sys.modules:
  _stub = types.ModuleType(_SUMMARY_MODULE)
  _stub.SummaryWriter = _SummaryWriter
  sys.modules[_SUMMARY_MODULE] = _stub

# They have to follow the replacement above.
from clu import metric_writers, parameter_overview  # noqa: E402
from clu import metrics as clu_metrics  # noqa: E402

MetricWriter = metric_writers.MetricWriter


def make_writer(directory: str | os.PathLike[str]) -> MetricWriter:
  """A clu writer to event files in *directory*.

  It writes from a thread of its own, and on the first process only; on the
  others it goes to the log.
  """
  return metric_writers.create_default_writer(
    os.fspath(directory), just_logging=jax.process_index() > 0
  )


def parameter_table(params: Any) -> str:
  """A table of all parameters: name, shape, size, mean, std."""
  return parameter_overview.get_parameter_overview(
    params, include_stats=False, max_lines=None
  )


def parameter_count(params: Any) -> int:
  """Number of scalars in a tree of parameters."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


class MeanMetrics:
  """Means of scalar metrics over steps, kept on the device.

  Adding costs one small dispatch and waits for nothing; only `compute` brings
  values to the host.
  """

  def __init__(self):
    self._mean = None
    self._steps = 0

  def add(self, scalars: dict[str, jax.Array]) -> None:
    """Adds one step's scalars, the same names every time."""
    self._mean = (
      _start(scalars) if self._mean is None else _merge(self._mean, scalars)
    )
    self._steps += 1

  def compute(self) -> dict[str, float]:
    """Means since the last call; waits for the device, then starts afresh.

    NaN or infinity in any step shows in the mean. Empty if nothing was added.
    """
    if self._mean is None:
      return {}
    means = jax.device_get(self._mean.compute())
    self._mean, self._steps = None, 0
    return {name: float(value) for name, value in means.items()}


def _collection(names: tuple[str, ...]) -> type[clu_metrics.Collection]:
  if names not in _collections:
    _collections[names] = clu_metrics.Collection.create(
      **{name: clu_metrics.Average.from_output(name) for name in names}
    )
  return _collections[names]


# jit's cache knows a class by identity, so each is made once.
_collections: dict[tuple[str, ...], type[clu_metrics.Collection]] = {}


@jax.jit
def _start(scalars):
  return _collection(tuple(sorted(scalars))).single_from_model_output(**scalars)


@jax.jit
def _merge(mean, scalars):
  return mean.merge(_start(scalars))
