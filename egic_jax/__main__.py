"""`python -m egic_jax`: the same as `egic`."""

import sys

from egic_jax.cli import main

if __name__ == "__main__":
  sys.exit(main.main())
