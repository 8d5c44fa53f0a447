"""A codec that compiles in seconds, and pictures for it."""

import jax
import numpy as np
import pytest

from egic_jax.bitstream import codec, model_file
from egic_jax.models import codec as codec_lib
from egic_jax.models import orp, presets


def micro_config(rate_levels: int = 0) -> presets.CodecConfig:
  return presets.CodecConfig(
    rate_levels=rate_levels,
    analysis_widths=(8, 8, 8, 8),
    analysis_depths=(1, 1, 1, 1),
    analysis_window=4,
    hyper_width=8,
    hyper_depths=(1, 1),
    hyper_window=2,
    num_slices=2,
    max_support=2,
    head_width=8,
    mlp_ratio=1,
  )


def micro_params(seed: int, gain: float) -> dict:
  """Untrained parameters, with latents times `gain` and scales that vary.

  A gain of 2 gives symbols about as wide as their tables, one of 20 many that
  are escaped.
  """
  gains = {
    "analysis/merging_2/reduction/kernel": gain,
    "hyper_analysis/merging_0/reduction/kernel": gain,
    "charm/scale_0/conv_2/kernel": 30,
    "charm/scale_1/conv_2/kernel": 30,
  }
  params = codec_lib.init_codec_params(micro_config(), seed)

  def louder(path, value):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return gains.pop(name, 1) * value

  params = jax.tree_util.tree_map_with_path(louder, params)
  assert not gains, "the model's parameters have other names now"
  head = jax.tree.map(lambda p: 1.5 * p, orp.init_from_synthesis(params))
  return {"codec": params, "orp": head}


@pytest.fixture(scope="session")
def model() -> model_file.Model:
  return model_file.build_model(micro_config(), micro_params(0, gain=2))


@pytest.fixture(scope="session")
def loud_model() -> model_file.Model:
  return model_file.build_model(micro_config(), micro_params(1, gain=20))


def variable_params(seed: int, gain: float) -> dict:
  """`micro_params` for 4 levels: gains are a ladder over a factor of 20.

  No channel's inverse gain is quite one over its gain, and no two are alike.
  """
  params = micro_params(seed, gain)
  config = micro_config(rate_levels=4)
  ladder = np.log(20) * np.linspace(-0.6, 0.4, config.rate_levels)[:, None]
  tilt = 0.3 * np.sin(np.arange(config.latent_channels))
  rate = {"log_gain": ladder + tilt, "log_inverse_gain": 0.1 - ladder - tilt}
  params["codec"]["rate"] = {
    name: value.astype(np.float32) for name, value in rate.items()
  }
  return params


@pytest.fixture(scope="session")
def variable_model() -> model_file.Model:
  """For several rates: 4 levels of quality."""
  return model_file.build_model(
    micro_config(rate_levels=4), variable_params(0, gain=4)
  )


@pytest.fixture(scope="session")
def variable_codec(variable_model) -> codec.ImageCodec:
  return codec.ImageCodec.from_model(variable_model)


@pytest.fixture(scope="session")
def image_codec(model) -> codec.ImageCodec:
  return codec.ImageCodec.from_model(model)


@pytest.fixture(scope="session")
def picture():
  """Returns a function (height, width) > smooth, noisy (H, W, 3) uint8."""

  def make(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng([height, width])
    rows = np.arange(height)[:, None, None]
    columns = np.arange(width)[None, :, None]
    waves = 60 * np.sin(rows / 9 + np.arange(3)) + 60 * np.cos(columns / 13)
    noise = rng.normal(0, 10, (height, width, 3))
    return np.clip(128 + waves + noise, 0, 255).astype(np.uint8)

  return make
