"""Means on the device, and event files without TensorFlow."""

import math
import subprocess
import sys

import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.training import metrics_writer


def test_means_start_afresh_after_each_report():
  means = metrics_writer.MeanMetrics()
  assert means.compute() == {}
  for value in (1.0, 2.0, 6.0):
    means.add({"loss": jnp.asarray(value), "bpp": jnp.asarray(2 * value)})
  assert means.compute() == pytest.approx({"loss": 3.0, "bpp": 6.0})
  means.add({"loss": jnp.asarray(5.0), "bpp": jnp.asarray(0.0)})
  assert means.compute() == pytest.approx({"loss": 5.0, "bpp": 0.0})


def test_one_bad_step_shows_in_the_mean():
  means = metrics_writer.MeanMetrics()
  for value in (1.0, math.nan, 1.0):
    means.add({"loss": jnp.asarray(value)})
  assert math.isnan(means.compute()["loss"])


def test_event_file_has_scalars_pictures_and_text(tmp_path):
  writer = metrics_writer.make_writer(tmp_path)
  writer.write_scalars(3, {"loss": 0.5})
  writer.write_images(3, {"samples": np.zeros((1, 8, 8, 3), np.uint8)})
  writer.write_texts(3, {"parameters": "a table"})
  writer.write_hparams({"train.steps": 4})
  writer.close()
  assert micro_training.read_scalars(tmp_path) == {("loss", 3): 0.5}
  tags = {
    v.tag for e in micro_training.read_events(tmp_path) for v in e.summary.value
  }
  assert any(tag.startswith("samples") for tag in tags)
  assert any(tag.startswith("parameters") for tag in tags)


def test_parameter_table_counts():
  params = {"codec": {"kernel": np.zeros((3, 4)), "bias": np.zeros(4)}}
  assert metrics_writer.parameter_count(params) == 16
  assert "codec/kernel" in metrics_writer.parameter_table(params)


def test_needs_no_tensorflow():
  code = (
    "import sys; from egic_jax.training import metrics_writer;"
    " sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
