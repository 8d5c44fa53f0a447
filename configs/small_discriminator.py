"""Stage 0 with the small discriminator on photographs with label maps.

Command:   egic train --config configs/small_discriminator.py \
               --workdir runs/small_discriminator data.folder=PHOTOGRAPHS
Hardware:  one accelerator
Time:      not yet measured
Result:    mIoU, pixel accuracy: not yet measured
"""

from ml_collections import ConfigDict

from configs import small_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 0, small, on photographs."""
  config = small_mse.get_config()
  config.data.batch_size = 16
  config.data.color_policy = "simple_classification_0.2"
  config.train.stage = "stage0_discriminator"
  config.train.steps = 100_000
  config.train.num_validation = 0
  return config
