"""The released stage 1, small, on photographs: rate, MSE and LPIPS.

LPIPS's weights are files that you download: without loss.lpips_files the
command says which.

Command:   egic train --config configs/small_mse_lpips.py \
               --workdir runs/small_mse_lpips data.folder=PHOTOGRAPHS \
               loss.lpips_files=alexnet-owt-7be5be79.pth,alex.pth
Hardware:  one accelerator
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import small_mse


def get_config() -> ConfigDict:
  """Returns the configuration of the released stage 1, small."""
  config = small_mse.get_config()
  config.train.stage = "stage1_mse_lpips"
  return config
