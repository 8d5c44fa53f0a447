"""Stage 1 at full size on COCO: rate and MSE, the published schedule.

2,000,000 steps of 8 crops of 256 x 256, Adam at 1e-4, at 1e-5 for the last
tenth. COCO is prepared by `egic prepare-coco`; for photographs of your own add
data.name=image_label_folder data.folder=PHOTOGRAPHS.

Command:   egic train --config configs/full_mse.py --workdir runs/full_mse \
               data.data_dir=TFDS
Hardware:  one or more accelerators
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
  """Returns the configuration of stage 1, full size, on COCO."""
  config = base.get_config()
  config.model.preset = "full"
  config.data.name = "coco"
  config.data.enlarge = True
  config.data.padding = "mean"
  config.data.num_threads = 16
  config.data.prefetch = 8
  return config
