"""`egic COMMAND ...`: finds the command, runs it, tells errors in one line."""

import importlib
import os
import sys
from collections.abc import Sequence

# Command, its module in egic_jax.cli, what it does.
_COMMANDS = {
  "train": ("train", "train a codec, or continue training it"),
  "aot": ("aot", "what a training step takes on a TPU slice, without one"),
  "prepare-coco": ("prepare_coco", "COCO 2017 panoptic, ready for training"),
  "compress": ("compress", "photographs to .egic files"),
  "decompress": ("decompress", ".egic files to pictures"),
  "info": ("info", "what an .egic file holds"),
  "models": ("list_models", "the models that come with the package"),
  "evaluate": ("evaluate", "bit rates and quality on a folder of pictures"),
  "export": ("export", "a work directory to one model file"),
  "import-official": (
    "import_official",
    "weights of the official TensorFlow release to a model file",
  ),
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command.

  Args:
    argv: command and its arguments; those of the process by default.

  Returns:
    The exit code: 0 when all went well; 1 after an error, told in one line on
    stderr; 2 when the arguments themselves are wrong; 130 after Ctrl-C.
  """
  try:
    try:
      return _run(list(sys.argv[1:] if argv is None else argv))
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()  # Here, where a reader that is gone can be borne.
  except BrokenPipeError:
    # Whoever read our output has seen enough; keep Python from complaining.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(argv: list[str]) -> int:
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(_usage())
    return 0
  if argv[0] == "--version":
    import egic_jax

    print(f"egic_jax {egic_jax.__version__}")
    return 0
  name, rest = argv[0], argv[1:]
  if name not in _COMMANDS:
    print(
      f"egic: error: no command {name!r}; there are {', '.join(_COMMANDS)}",
      file=sys.stderr,
    )
    return 2
  try:
    command = importlib.import_module(f"egic_jax.cli.{_COMMANDS[name][0]}")
    return command.run(rest)
  except KeyboardInterrupt:
    print(f"egic {name}: stopped", file=sys.stderr)
    return 130
  except BrokenPipeError:
    raise
  except Exception as error:
    if os.environ.get("EGIC_TRACEBACK"):
      raise
    print(f"egic {name}: error: {one_line(error)}", file=sys.stderr)
    return 1


def one_line(error: BaseException) -> str:
  """An exception as a line for people."""
  if isinstance(error, MemoryError):
    return "out of memory"
  text = " ".join(str(error).split())
  if "RESOURCE_EXHAUSTED" in text:
    return f"out of memory: {text[:200]}"
  if isinstance(error, ValueError | OSError) and text:
    return text
  if isinstance(error, ModuleNotFoundError):
    return (
      f"{error}; for training and work directories: pip install"
      " 'egic_jax[train]'"
    )
  # Not one of ours: say what kind it is, and how to see where it came from.
  return (
    f"{type(error).__name__}: {text[:300]} (unexpected; EGIC_TRACEBACK=1 shows"
    " where)"
  )


def _usage() -> str:
  width = max(map(len, _COMMANDS))
  rows = [f"  {name:<{width}}  {what}" for name, (_, what) in _COMMANDS.items()]
  return "\n".join(
    [
      "usage: egic COMMAND [arguments]",
      "",
      "EGIC: generative image compression in JAX.",
      "",
      *rows,
      "",
      "egic COMMAND --help tells a command's arguments; egic --version.",
    ]
  )
