"""Stage 3 with the small codec on photographs: the ORP head alone.

Command:   egic train --config configs/small_orp.py --workdir runs/small_orp \
               data.folder=PHOTOGRAPHS train.init_from=runs/small_gan
Hardware:  one accelerator
Time:      not yet measured
Result:    not yet measured
"""

from ml_collections import ConfigDict

from configs import small_mse


def get_config() -> ConfigDict:
  """Returns the configuration of stage 3, small, on photographs."""
  config = small_mse.get_config()
  config.train.stage = "stage3_orp"
  config.train.steps = 50_000
  return config
