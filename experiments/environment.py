"""A virtual environment with everything pinned; needs nothing but Python.

    python3 experiments/environment.py

makes `.venv` beside the repository's files, installs requirements.txt and this
package into it, and does nothing when that has been done already. The quick
start and the tests call it.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / ".venv"


def ensure() -> pathlib.Path:
  """Returns the environment's Python; exits with one line if it cannot be."""
  if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit(
      f"egic_jax needs Python 3.11 or newer; this is {sys.version.split()[0]}"
    )
  python = FOLDER / ("Scripts" if os.name == "nt" else "bin") / "python"
  requirements = REPOSITORY / "requirements.txt"
  wanted = hashlib.sha256(
    requirements.read_bytes()
    + (REPOSITORY / "setup.py").read_bytes()
    + sys.version.encode()
  ).hexdigest()
  stamp = FOLDER / "installed"
  if stamp.is_file() and stamp.read_text() == wanted and python.exists():
    return python
  print(f"setting up {FOLDER} (some minutes the first time) ...", flush=True)
  shutil.rmtree(FOLDER, ignore_errors=True)
  quiet = ["-q", "--disable-pip-version-check"]
  for command in (
    [sys.executable, "-m", "venv", FOLDER],
    [python, "-m", "pip", "install", *quiet, "-r", requirements],
    [python, "-m", "pip", "install", *quiet, "--no-deps", "-e", REPOSITORY],
  ):
    result = subprocess.run(
      command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if result.returncode:
      sys.stderr.write(result.stdout)
      sys.exit(f"failed: {' '.join(map(str, command))}")
  stamp.write_text(wanted)
  return python


if __name__ == "__main__":
  print(ensure())
