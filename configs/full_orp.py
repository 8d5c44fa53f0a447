"""Stage 3 at full size on COCO: the ORP head alone, towards least MSE.

Adam at 1e-4, at 1e-5 for the last tenth. The length of the official run is not
known; ours is a guess.

Command:   egic train --config configs/full_orp.py --workdir runs/full_orp \
               data.data_dir=TFDS train.init_from=runs/full_gan
Hardware:  one or more accelerators
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import full_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 3, full size, on COCO."""
  config = full_mse.get_config()
  config.train.stage = "stage3_orp"
  config.train.steps = 500_000
  return config
