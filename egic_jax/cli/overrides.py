"""Configurations from files, and `section.key=value` overrides of them."""

import ast
import difflib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def load_config(path: str) -> ConfigDict:
  """Runs the `get_config()` of a configuration file.

  `from configs import base` works within the file wherever it lies: the
  directory above its own and this repository are importable while it runs.

  Args:
    path: a Python file with a function `get_config()`.

  Returns:
    The locked configuration.

  Raises:
    ValueError: the file is missing or does not yield a configuration.
  """
  file = pathlib.Path(path).resolve()
  if not file.is_file():
    known = sorted(
      p.name for p in file.parent.glob("*.py") if p.name != "base.py"
    )
    hint = f"; {file.parent} has {', '.join(known)}" if known else ""
    raise ValueError(f"--config {path}: there is no such file{hint}")
  repository = pathlib.Path(__file__).resolve().parents[2]
  saved_path = list(sys.path)
  # A fresh look each time: two files may both say `from configs import base`
  # and mean different directories.
  for name in [n for n in sys.modules if n.split(".")[0] == "configs"]:
    del sys.modules[name]
  sys.path[:0] = [str(file.parent.parent), str(repository)]
  importlib.invalidate_caches()
  try:
    spec = importlib.util.spec_from_file_location("egic_config_file", file)
    if spec is None:
      raise ValueError(f"--config {path}: not a Python file (name it *.py)")
    module = importlib.util.module_from_spec(spec)
    try:
      spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
      raise ValueError(f"--config {path}: {error}") from error
    if not hasattr(module, "get_config"):
      raise ValueError(f"--config {path}: defines no get_config()")
    try:
      config = module.get_config()
    except (AttributeError, KeyError, TypeError) as error:
      # ConfigDict reports a misspelt key or a wrong type so.
      raise ValueError(f"--config {path}: {_one_line(error)}") from error
  finally:
    sys.path[:] = saved_path
  if not isinstance(config, ConfigDict):
    raise ValueError(
      f"--config {path}: get_config() returned {type(config).__name__}, "
      "expected a ml_collections.ConfigDict"
    )
  return config.lock()


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields ("section.key", value) for every leaf of *config*."""
  for key, value in config.items():
    if isinstance(value, ConfigDict):
      yield from flatten(value, f"{prefix}{key}.")
    else:
      yield prefix + key, value


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
  """Applies "section.key=value" texts to *config*, in place.

  A value is read as the type the key has now; `--config.section.key=value` is
  understood as well.

  Args:
    config: the configuration to change.
    overrides: texts as they stand on the command line.

  Raises:
    ValueError: unknown key (the nearest one is named) or unfit value.
  """
  known = dict(flatten(config))
  for text in overrides:
    name, separator, value = text.partition("=")
    name = name.removeprefix("--").removeprefix("config.")
    if not separator or text.startswith("-") and "config." not in text:
      raise ValueError(
        f"{text}: expected section.key=value, for example train.steps=1000"
      )
    if name not in known:
      raise ValueError(f"{name}: no such key{_nearest(name, known)}")
    config.update_from_flattened_dict(
      {name: parse_value(name, value, known[name])}
    )


def parse_value(name: str, text: str, present: Any) -> Any:
  """Reads *text* as the type of *present*, the key's value so far.

  Args:
    name: the key, for the message.
    text: the value as typed.
    present: a bool, int, float, str or tuple.

  Returns:
    The value. A tuple's items take the type of its first item, or str.

  Raises:
    ValueError: the text does not fit the type.
  """

  def unfit(expected: str) -> ValueError:
    return ValueError(f"{name}={text}: expected {expected}")

  if isinstance(present, bool):
    if text.lower() in _TRUE:
      return True
    if text.lower() in _FALSE:
      return False
    raise unfit("true or false")
  if isinstance(present, int):
    try:
      return int(text.replace("_", ""))
    except ValueError:
      pass
    try:
      number = float(text)  # 1e6 is a usual way to write a number of steps
    except ValueError:
      raise unfit("a whole number") from None
    if not number.is_integer():
      raise unfit("a whole number")
    return int(number)
  if isinstance(present, float):
    try:
      return float(text)
    except ValueError:
      raise unfit("a number") from None
  if isinstance(present, tuple):
    inner = text.strip()
    if inner[:1] in ("(", "["):
      try:
        items = [str(item) for item in ast.literal_eval(inner)]
      except (ValueError, SyntaxError, TypeError):
        items = inner.strip("()[]").split(",")
    else:
      items = inner.split(",")
    items = [item.strip() for item in items if item.strip()]
    if present and len(items) != len(present):
      raise unfit(f"{len(present)} values, like {_as_text(present)}")
    return tuple(
      parse_value(name, item, present[0] if present else "") for item in items
    )
  return text


def _nearest(name: str, known: dict[str, Any]) -> str:
  last = name.rpartition(".")[2]
  same_key = [key for key in known if key.rpartition(".")[2] == last]
  near = same_key or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  if not near:
    by_key = {key.rpartition(".")[2]: key for key in known}
    near = [by_key[key] for key in difflib.get_close_matches(last, by_key, n=1)]
  if near:
    return f"; did you mean {near[0]}?"
  return (
    f"; the sections are {', '.join(sorted({k.split('.')[0] for k in known}))}"
  )


def _as_text(value: tuple) -> str:
  return ",".join(str(item) for item in value)


def _one_line(error: Exception) -> str:
  message = error.args[0] if error.args else error
  return " ".join(str(message).split())
