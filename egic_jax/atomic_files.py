"""Files that are either written whole or not at all."""

import contextlib
import os
import secrets


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes a file under a temporary name beside it, then renames it.

  Whoever reads `path` meanwhile, or after a crash, finds the old content or
  the new, never a part. A symbolic link is followed. What exists and is not a
  regular file (a pipe, /dev/stdout) is written to directly.

  Raises:
    OSError: with a message of one line that names the path; nothing is left
      behind.
  """
  target = os.path.realpath(path)
  try:
    if os.path.exists(target) and not os.path.isfile(target):
      with open(target, "wb") as file:
        file.write(data)
    else:
      _replace(target, data)
  except OSError as error:
    # The system's message would name the temporary file.
    reason = error.strerror or str(error)
    raise OSError(
      f"cannot write {os.fspath(path)}: {reason.lower()}"
    ) from error


def _replace(target: str, data: bytes) -> None:
  # Of a fixed length: a suffix could make a long name too long.
  name = f".{secrets.token_hex(8)}.partial"
  temporary = os.path.join(os.path.dirname(target), name)
  try:
    with open(temporary, "xb") as file:
      file.write(data)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, target)
  except BaseException:
    with contextlib.suppress(OSError):
      os.unlink(temporary)
    raise
