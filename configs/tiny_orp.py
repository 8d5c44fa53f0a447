"""Stage 3, tiny, on synthetic scenes: minutes on a laptop's CPU.

Command:   egic train --config configs/tiny_orp.py --workdir runs/tiny_orp \
               train.init_from=runs/tiny_gan
Hardware:  2 CPU cores
Time:      not yet measured; on photographs 3 minutes for 400 steps, on a busy
           machine
Result:    not yet measured; on photographs Kodak 27.71 dB at alpha 0 and
           27.68 dB at alpha 1, see experiments/orp_alpha
"""

from ml_collections import ConfigDict

from configs import tiny


def get_config() -> ConfigDict:
  """Returns the configuration of stage 3, tiny, on synthetic scenes."""
  config = tiny.get_config()
  config.train.stage = "stage3_orp"
  config.train.steps = 500
  return config
