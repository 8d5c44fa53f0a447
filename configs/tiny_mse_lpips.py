"""The released stage 1, tiny, on synthetic scenes: rate, MSE and LPIPS.

LPIPS's weights are files that you download: without loss.lpips_files the
command says which.

Command:   egic train --config configs/tiny_mse_lpips.py \
               --workdir runs/tiny_mse_lpips \
               loss.lpips_files=alexnet-owt-7be5be79.pth,alex.pth
Hardware:  2 CPU cores
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
  """Returns the configuration of the released stage 1, tiny."""
  config = tiny.get_config()
  config.train.stage = "stage1_mse_lpips"
  return config
