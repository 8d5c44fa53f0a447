"""Stage 2, tiny, on synthetic scenes: minutes on a laptop's CPU.

Trains without LPIPS unless loss.lpips_files names its weights.

Command:   egic train --config configs/tiny_gan.py --workdir runs/tiny_gan \
               train.init_from=runs/tiny \
               train.init_discriminator=runs/tiny_discriminator
Hardware:  2 CPU cores
Time:      not yet measured; on photographs 50 minutes for 1,500 steps, on a
           busy machine
Result:    not yet measured; on photographs see experiments/orp_alpha
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
  """Returns the configuration of stage 2, tiny, on synthetic scenes."""
  config = tiny.get_config()
  config.optimizer.learning_rate = 1e-4
  config.optimizer.final_learning_rate = 1e-4
  config.train.stage = "stage2_gan"
  config.train.steps = 1_000
  config.train.ema_decay = 0.99
  return config
