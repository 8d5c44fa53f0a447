"""Stage 0 at full size: OASIS-C as a segmentation network, on COCO.

1,000,000 steps of 256 x 256 crops, as many as the released checkpoint had. Its
recipe was not released; batch, rates and augmentation here are our choice.

Command:   egic train --config configs/full_discriminator.py \
               --workdir runs/full_discriminator data.data_dir=TFDS
Hardware:  one or more accelerators
Time:      not yet measured
Result:    mIoU, pixel accuracy: not yet measured
"""

from ml_collections import ConfigDict

from configs import full_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 0, full size, on COCO."""
  config = full_mse.get_config()
  config.data.batch_size = 16
  config.data.color_policy = "simple_classification_0.2"
  config.train.stage = "stage0_discriminator"
  config.train.steps = 1_000_000
  config.train.num_validation = 5_000
  config.train.validate_every = 20_000
  return config
