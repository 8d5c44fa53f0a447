"""Gains by quality against the formula, in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.models import codec as codec_lib
from egic_jax.models import rate_gains

_CONFIG = dataclasses.replace(micro_training.micro_config(), rate_levels=3)


@pytest.fixture(scope="module")
def params():
  params = codec_lib.init_codec_params(_CONFIG, 2)
  rng = np.random.default_rng(0)
  rate = {
    name: value + rng.normal(0, 0.1, value.shape).astype(np.float32)
    for name, value in params["rate"].items()
  }
  return params | {"rate": rate}


def _apply(params, *args, method=None):
  return codec_lib.Codec(_CONFIG).apply(
    {"params": params}, *args, method=method
  )


@pytest.mark.parametrize(
  ("method", "name"),
  [("scale_latent", "log_gain"), ("unscale_latent", "log_inverse_gain")],
)
def test_gains_are_interpolated_in_their_logarithm(params, method, name):
  quality = np.array([1.0, 1.25, 2.0, 3.0, 2.9], np.float32)
  y = np.random.default_rng(1).normal(size=(5, 2, 3, 8)).astype(np.float32)
  found = _apply(params, jnp.asarray(y), jnp.asarray(quality), method=method)
  for i, q in enumerate(quality):
    logs = [
      np.interp(q, [1, 2, 3], params["rate"][name][:, c]) for c in range(8)
    ]
    np.testing.assert_allclose(found[i], y[i] * np.exp(logs), rtol=1e-5)


def test_untrained_gains_undo_each_other():
  log_gain = rate_gains.draw("log_gain", (5, 4))
  np.testing.assert_allclose(
    log_gain, -rate_gains.draw("log_inverse_gain", (5, 4))
  )
  steps = np.diff(log_gain, axis=0)
  assert steps.min() > 0 and np.ptp(steps) < 1e-12
  np.testing.assert_allclose(log_gain[2], 0, atol=1e-12)


def test_symbols_are_of_the_scaled_latent(params):
  image = jnp.asarray(
    np.random.default_rng(3).random((1, 64, 64, 3)), jnp.float32
  )
  run = jax.jit(lambda image, quality: _apply(params, image, None, quality))
  low, high = (run(image, jnp.full(1, q)) for q in (1.0, 3.0))
  y = _apply(params, image, method="analysis")
  for output, level in ((low, 0), (high, 2)):
    gain = np.exp(params["rate"]["log_gain"][level])
    np.testing.assert_allclose(output.y, y * gain, rtol=1e-4, atol=1e-5)
    inverse = np.exp(params["rate"]["log_inverse_gain"][level])
    symbols = (output.y_hat / inverse) - output.mean
    np.testing.assert_allclose(symbols, np.round(symbols), atol=1e-3)
    x_hat = _apply(params, output.y_hat, method="synthesis")
    np.testing.assert_allclose(output.x_hat, x_hat, atol=1e-5)


def test_a_quality_belongs_to_a_model_with_levels(params):
  y = jnp.zeros((1, 4, 4, 8))
  with pytest.raises(ValueError, match="quality is None.*rate_levels 3"):
    _apply(params, y, None, method="scale_latent")
  plain = codec_lib.Codec(micro_training.micro_config())
  with pytest.raises(ValueError, match="rate_levels 0"):
    plain.apply({"params": params}, y, jnp.ones(1), method="scale_latent")
