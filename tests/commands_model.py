"""A model that compiles quickly, for tests of the commands."""

import dataclasses

from egic_jax.bitstream import model_file
from egic_jax.models import codec, orp, presets

CONFIG = presets.CodecConfig(
  analysis_widths=(8, 8, 8, 16),
  analysis_depths=(1, 1, 1, 1),
  analysis_window=4,
  hyper_width=8,
  hyper_depths=(1, 1),
  num_slices=2,
  head_width=8,
  mlp_ratio=1,
)


def save_model(path, rate_levels=0, seed=0, **metadata) -> str:
  """Writes an untrained model with an ORP head; returns the path as text."""
  config = dataclasses.replace(CONFIG, rate_levels=rate_levels)
  params = {"codec": codec.init_codec_params(config, seed)}
  # A reconstruction that is not one flat grey, and an ORP head that differs from
  # the last stage of synthesis.
  params["codec"]["synthesis"] = _louder(params["codec"]["synthesis"])
  params["orp"] = orp.init_from_synthesis(params["codec"])
  bias = params["orp"]["head"]["unpack"]["reduction"]
  bias["bias"] = bias["bias"] * 0.6
  model = model_file.build_model(config, params, metadata)
  model_file.save_model(path, model)
  return str(path)


def _louder(tree):
  return {
    k: _louder(v) if isinstance(v, dict) else v * (3 if k == "kernel" else 1)
    for k, v in tree.items()
  }
