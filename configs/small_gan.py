"""Stage 2 with the small codec on photographs with label maps.

Trains without LPIPS unless loss.lpips_files names its weights.

Command:   egic train --config configs/small_gan.py --workdir runs/small_gan \
               data.folder=PHOTOGRAPHS train.init_from=runs/small_mse \
               train.init_discriminator=runs/small_discriminator
Hardware:  one accelerator
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import small_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 2, small, on photographs."""
  config = small_mse.get_config()
  config.data.batch_size = 16
  config.optimizer.learning_rate = 5e-5
  config.optimizer.final_learning_rate = 5e-5
  config.train.stage = "stage2_gan"
  config.train.steps = 150_000
  config.train.ema_decay = 0.999
  return config
