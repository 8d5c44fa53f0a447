"""Sets everything up and runs the tests.

python3 tests/run.py [arguments of pytest]
"""

import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "experiments"))

import environment  # noqa: E402


def main() -> int:
  """Lint, formatting, tests; the first that fails ends it."""
  python = environment.ensure()
  for command in (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["pytest", *sys.argv[1:]],
  ):
    code = subprocess.run([python, "-m", *command], cwd=REPOSITORY).returncode
    if code:
      return code
  return 0


if __name__ == "__main__":
  sys.exit(main())
