"""An untrained model whose files are as trained ones' are, to time coding with.

Networks cost the same trained or not, but the range coder's work depends on the
symbols. Gains and the last biases of the slice networks are set so that each
channel of y has a scale that was drawn, and is coded under it: more than half
under the smallest scale, as trained models' are at 0.1 to 0.4 bits a pixel.
"""

import dataclasses
import functools

import numpy as np

# Of the channels of y: those under the smallest scale, and the largest index
# (of 63) of the others. Of shipped `tiny` at quality 3: 0.47 and some 20.
_QUIET, _LOUDEST = 0.7, 14.0


def model(preset: str, image: np.ndarray, seed: int = 0):
  """A `model_file.Model` of 8 rates, all of them alike.

  Args:
    preset: its size.
    image: (H, W, 3) uint8 whose latents decide on the gains.
  """
  from egic_jax.bitstream import model_file, programs, windowed
  from egic_jax.entropy import gaussian
  from egic_jax.models import codec, presets

  config = dataclasses.replace(presets.get_preset(preset), rate_levels=8)
  params = codec.init_codec_params(config, seed)
  y = windowed.analysis(
    config,
    functools.partial(programs.programs(config).analysis, params),
    image[None],
  )
  rng = np.random.default_rng(seed)
  channels = config.latent_channels
  index = rng.uniform(0, _LOUDEST, channels)
  index[rng.random(channels) < _QUIET] = -1
  scale = np.interp(index, np.arange(64), gaussian.scale_table())
  gain = scale / (np.std(y, axis=(0, 1, 2)) + 1e-6)
  params["rate"]["log_gain"][:] = np.log(gain)
  params["rate"]["log_inverse_gain"][:] = -np.log(gain)
  means = np.mean(y, axis=(0, 1, 2)) * gain
  size = config.slice_channels
  for i in range(config.num_slices):
    own = slice(i * size, (i + 1) * size)
    for name, bias in (("mean", means), ("scale", index)):
      last = params["charm"][f"{name}_{i}"]["conv_2"]
      last["kernel"] = np.zeros_like(last["kernel"])
      last["bias"] = bias[own].astype(np.float32)
  return model_file.build_model(config, {"codec": params})
