"""Stage 1 at full size: rate and MSE, the published schedule.

2,000,000 steps of 8 crops of 256 x 256, Adam at 1e-4, at 1e-5 for the last
tenth. The data here are photographs of your own; COCO is not wired in yet.

Command:   egic train --config configs/full_mse.py --workdir runs/full_mse \
               data.folder=PHOTOGRAPHS
Hardware:  one or more accelerators
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration of stage 1, full size, on photographs."""
  config = base.get_config()
  config.model.preset = "full"
  config.data.name = "image_label_folder"
  config.data.num_threads = 16
  config.data.prefetch = 8
  return config
