"""Stage 1 with the small codec on photographs of your own.

Command:   egic train --config configs/small_mse.py --workdir runs/small_mse \
               data.folder=PHOTOGRAPHS
Hardware:  one accelerator
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration of stage 1, small, on photographs."""
  config = base.get_config()
  config.model.preset = "small"
  config.model.discriminator_preset = "small"
  config.data.name = "image_label_folder"
  config.data.cache_decoded = True
  config.data.num_threads = 16
  config.data.prefetch = 8
  config.optimizer.learning_rate = 2e-4
  config.optimizer.final_learning_rate = 2e-5
  config.optimizer.warmup_steps = 1_000
  config.optimizer.clip_norm = 1.0
  config.train.steps = 300_000
  return config
