"""What a figure is of: versions, date and commit."""

import datetime
import platform
import subprocess


def line() -> str:
  """Python's version, today and the commit; "dirty" where files differ from it."""
  return (
    f"Python {platform.python_version()}, {datetime.date.today()},"
    f" commit {_commit()}"
  )


def _commit() -> str:
  command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
  try:
    found = subprocess.run(command, capture_output=True, text=True)
  except OSError:  # No git here.
    return "unknown"
  return found.stdout.strip() or "unknown"
