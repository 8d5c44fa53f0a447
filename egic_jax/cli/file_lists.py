"""Many files in, many files out: what `compress` and `decompress` share."""

import argparse
import collections
import concurrent.futures
import functools
import os
import pathlib
import sys
from collections.abc import Callable
from typing import NamedTuple

from egic_jax import atomic_files
from egic_jax.cli import main

STREAM = "-"
# Files that are written at a time, while the next one is worked on, and bytes of them
# that may wait in memory.
_WRITERS = min(4, os.cpu_count() or 1)
_MOST_HELD = 2**28


def add_arguments(parser: argparse.ArgumentParser, what: str, to: str) -> None:
  """Adds IN..., --output and --force."""
  parser.add_argument(
    "inputs", nargs="+", metavar="IN", help=f"{what}; - for standard input"
  )
  parser.add_argument(
    "-o",
    "--output",
    metavar="OUT",
    help=f"file for one input, or directory for any number; - for standard"
    f" output; default: beside the input, as {to}",
  )
  parser.add_argument(
    "-f",
    "--force",
    action="store_true",
    help="replace files that exist already",
  )


def read(name: str) -> bytes:
  """Content of a file or of standard input; OSError in one line."""
  if name == STREAM:
    return sys.stdin.buffer.read()
  try:
    return pathlib.Path(name).read_bytes()
  except OSError as error:
    raise OSError(
      f"cannot read {name}: {(error.strerror or '').lower()}"
    ) from (error)


def write(name: str, data: bytes) -> None:
  """Writes a file whole or not at all, or to standard output."""
  if name == STREAM:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
  else:
    atomic_files.write_bytes(name, data)


def plan(
  inputs: list[str], output: str | None, suffix: str, force: bool
) -> list[tuple[str, str]]:
  """Pairs each input with its output, before any work is done.

  Args:
    inputs: names of files, or "-".
    output: a file, an existing directory or a name that ends in a separator,
      "-", or None for beside the input.
    suffix: of outputs that are not named, such as ".egic".
    force: whether outputs may exist.

  Raises:
    ValueError: if outputs collide with each other, with inputs, or exist.
  """
  if output is None:
    if STREAM in inputs:
      raise ValueError("standard input needs -o OUT")
    outputs = [str(pathlib.Path(name).with_suffix(suffix)) for name in inputs]
  elif output != STREAM and (
    output.endswith(os.sep) or os.path.isdir(output) or len(inputs) > 1
  ):
    if os.path.exists(output) and not os.path.isdir(output):
      raise ValueError(
        f"{len(inputs)} inputs need a directory for -o, and {output} is a file"
      )
    if STREAM in inputs:
      raise ValueError("standard input needs a file name for -o")
    os.makedirs(output, exist_ok=True)
    outputs = [
      os.path.join(output, pathlib.Path(name).stem + suffix) for name in inputs
    ]
  else:
    if len(inputs) > 1:
      raise ValueError(f"{len(inputs)} inputs do not fit one standard output")
    outputs = [output]
  pairs = list(zip(inputs, outputs, strict=True))
  seen: dict[str, str] = {}
  for source, target in pairs:
    if target == STREAM:
      continue
    place = os.path.realpath(target)
    if place in seen:
      raise ValueError(
        f"{seen[place]} and {source} would both become {target}; give them"
        " different directories"
      )
    seen[place] = source
    if source != STREAM and place == os.path.realpath(source):
      raise ValueError(f"{source} would replace itself; name another -o OUT")
    # A picture one already has is worth more than ours.
    if os.path.isfile(target) and not force:
      raise ValueError(f"{target} exists already; -f replaces it")
  return pairs


class Unwritten(NamedTuple):
  """A file that is yet to be written, beside the work on the next ones.

  Attributes:
    line: to print once it is.
    write: writes it.
    held: bytes that are in memory until then.
  """

  line: str
  write: Callable[[], None]
  held: int


def each(
  command: str,
  pairs: list[tuple[str, str]],
  convert: Callable[[str, str], str | Unwritten],
  *,
  quiet: bool = False,
) -> int:
  """Converts file by file; one that fails does not keep the others from it.

  Args:
    command: the command's name, for messages.
    pairs: of `plan`.
    convert: does one and returns a line to print on stderr, or leaves it to
      `each` to write the file.
    quiet: print only what went wrong.

  Returns:
    The exit code: 1 if any failed.
  """
  failed = 0
  waiting: collections.deque = collections.deque()

  def tell():
    """Prints what became of the file that waits longest; bytes it has held."""
    nonlocal failed
    number, source, held, future = waiting.popleft()
    place = f"[{number}/{len(pairs)}] " if len(pairs) > 1 else ""
    try:
      line = future.result()
      if not quiet:
        print(f"{place}{line}", file=sys.stderr)
    except BrokenPipeError:
      raise  # Not the file's fault, see `main`.
    except (ValueError, OSError, MemoryError) as error:
      failed += 1
      text = main.one_line(error)
      if os.path.basename(source) not in text:
        text = f"{source}: {text}"
      print(f"egic {command}: error: {text}", file=sys.stderr)
    return held

  in_memory = 0
  with concurrent.futures.ThreadPoolExecutor(_WRITERS) as pool:
    for number, (source, target) in enumerate(pairs, 1):
      held, future = _begin(pool, functools.partial(convert, source, target))
      waiting.append((number, source, held, future))
      in_memory += held
      while waiting and (
        waiting[0][-1].done()
        or len(waiting) > _WRITERS
        or in_memory > _MOST_HELD
      ):
        in_memory -= tell()
    while waiting:
      tell()
  if failed and len(pairs) > 1:
    print(f"egic {command}: {failed} of {len(pairs)} failed", file=sys.stderr)
  return 1 if failed else 0


def _begin(pool, convert):
  """Bytes held, and a future of the line: done, or a file being written."""
  future = concurrent.futures.Future()
  try:
    done = convert()
  except BrokenPipeError:
    raise
  except (ValueError, OSError, MemoryError) as error:
    future.set_exception(error)
    return 0, future
  if isinstance(done, str):
    future.set_result(done)
    return 0, future

  def write():
    done.write()
    return done.line

  return done.held, pool.submit(write)
