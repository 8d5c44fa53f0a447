"""Programs that see four CPU devices, for tests of meshes.

In a process of their own, since the number of devices is fixed when jax starts.
"""

import os
import pathlib
import subprocess
import sys

_TESTS = pathlib.Path(__file__).resolve().parent


def run(
  program: str,
  *arguments: str,
  folder: str = ".",
  timeout: int = 600,
  **environment: str,
) -> str:
  """What a program prints; AssertionError with its errors if it fails.

  Args:
    program: its text. It can import from tests/ and one folder there.
    *arguments: its own.
    folder: in tests/.
    timeout: seconds.
    **environment: beside what there is.
  """
  paths = [_TESTS.parent, _TESTS, _TESTS / folder]
  done = subprocess.run(
    [sys.executable, "-c", program, *arguments],
    env=os.environ
    | {
      "PYTHONPATH": os.pathsep.join(map(str, paths)),
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    | environment,
    capture_output=True,
    text=True,
    timeout=timeout,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout
