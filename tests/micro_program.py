"""`egic train` with one size more, small enough for a test.

Started as a process by tests, and imported by them to train in their own.
"""

import sys

import micro_training

from egic_jax.models import presets
from egic_jax.models.discriminators import presets as discriminator_presets

presets._PRESETS["micro"] = micro_training.micro_config()
discriminator_presets._PRESETS["micro"] = micro_training.micro_discriminator()

if __name__ == "__main__":
  from egic_jax.cli import train

  sys.exit(train.run(sys.argv[1:]))
