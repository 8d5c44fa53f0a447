"""Stage 0, tiny, on synthetic scenes: minutes on a laptop's CPU.

Command:   egic train --config configs/tiny_discriminator.py \
               --workdir runs/tiny_discriminator
Hardware:  2 CPU cores
Time:      not yet measured; on photographs 35 minutes for 6,000 steps, on a
           busy machine
Result:    not yet measured; on photographs mIoU 0.215, pixel accuracy 0.537
           (chance 0.020 and 0.241), see experiments/oasis_c
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
  """Returns the configuration of stage 0, tiny, on synthetic scenes."""
  config = tiny.get_config()
  config.train.stage = "stage0_discriminator"
  config.train.steps = 1_000
  config.train.validate_every = 250
  config.train.num_validation = 64
  return config
