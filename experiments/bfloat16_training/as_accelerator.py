"""`egic`, with networks that round as on a GPU, on a CPU.

A CPU computes `model.compute_dtype=bfloat16` with wide activations and a wide
entropy model. Here activations are narrow, and so are slices and h_s, as a GPU
has them; what a GPU's kernels add up in float32 XLA does, too.
"""

import dataclasses
import sys

from egic_jax.cli import main
from egic_jax.models import swin

_activation_dtype = swin.activation_dtype
_of_training = swin.Execution.of_training


def _as_gpu(platform, devices, *options):
  """What a GPU does, less its kernels."""
  del platform
  return dataclasses.replace(
    _of_training("gpu", devices, *options), kernels=None
  )


if __name__ == "__main__":
  swin.activation_dtype = lambda _, dtype: _activation_dtype("gpu", dtype)
  swin.Execution.of_training = _as_gpu
  sys.exit(main.main(sys.argv[1:]))
