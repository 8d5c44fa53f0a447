"""Stage 1 with the tiny codec on photographs of your own.

Command:   egic train --config configs/tiny_mse.py --workdir runs/tiny_mse \
               data.folder=PHOTOGRAPHS
Hardware:  2 CPU cores
Time:      85 minutes for 7,200 steps, on a busy machine
Result:    Kodak 0.187 bpp, 27.68 dB, MS-SSIM 0.921, see
               experiments/stage1_mse
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration of stage 1, tiny, on photographs."""
  config = base.get_config()
  config.model.preset = "tiny"
  config.model.discriminator_preset = "tiny"
  config.data.name = "image_label_folder"
  config.data.crop_size = 128
  config.data.scale_range = (1.0, 1.0)
  config.data.scale_step = 0.0
  config.data.num_threads = 2
  config.data.cache_decoded = True
  config.optimizer.learning_rate = 1e-3
  config.optimizer.final_learning_rate = 1e-4
  config.optimizer.warmup_steps = 200
  config.optimizer.clip_norm = 1.0
  config.train.steps = 50_000
  config.train.checkpoint_every = 1_000
  config.train.sample_every = 1_000
  return config
