"""Stage 1 at full size on COCO as released: rate, MSE and LPIPS.

LPIPS's weights are files that you download: without loss.lpips_files the
command says which.

Command:   egic train --config configs/full_mse_lpips.py \
               --workdir runs/full_mse_lpips data.data_dir=TFDS \
               loss.lpips_files=alexnet-owt-7be5be79.pth,alex.pth
Hardware:  one or more accelerators
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import full_mse


def get_config() -> ConfigDict:
  """Returns the configuration of the released stage 1, full size."""
  config = full_mse.get_config()
  config.train.stage = "stage1_mse_lpips"
  return config
