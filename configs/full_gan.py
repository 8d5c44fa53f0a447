"""Stage 2 at full size on COCO: g_s against the pre-trained discriminator.

1,000,000 steps of 16 crops of 256 x 256, half of them for either side, Adam at
1e-5 for both. Encoder and entropy model stay as they are.

Command:   egic train --config configs/full_gan.py --workdir runs/full_gan \
               data.data_dir=TFDS train.init_from=runs/full_mse \
               train.init_discriminator=runs/full_discriminator \
               loss.lpips_files=alexnet-owt-7be5be79.pth,alex.pth
Hardware:  one or more accelerators
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import full_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 2, full size, on COCO."""
  config = full_mse.get_config()
  config.data.batch_size = 16
  config.optimizer.learning_rate = 1e-5
  config.optimizer.final_learning_rate = 1e-5
  config.train.stage = "stage2_gan"
  config.train.steps = 1_000_000
  return config
