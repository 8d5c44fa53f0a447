"""TPU slices as targets of compilation, on a machine that has no TPU.

libtpu holds XLA's compiler for TPUs and describes slices; no chip is touched.
"""

import contextlib
import dataclasses
import fnmatch
import importlib.metadata
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from egic_jax.training import chips

# The smallest slices that are handed out, and some larger ones.
EXAMPLES = (
  "v4:2x2x1",
  "v4:4x4x4",
  "v5e:2x2",
  "v5e:4x4",
  "v5e:16x16",
  "v5p:2x2x1",
  "v5p:4x4x4",
  "v6e:2x2",
  "v6e:4x4",
)

_NAME = re.compile(r"(\w+):(\d+(?:x\d+){1,2})")

# Read when libtpu is loaded. The second and third stand for what a TPU machine
# would be asked for, which costs half a minute where there is none.
_ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  # Nothing is run, so two commands at a time do no harm.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A slice of a pod.

  Attributes:
    name: as given, such as "v5e:4x4".
    chip: what it is made of.
    devices: one a chip, for a mesh to compile for.
  """

  name: str
  chip: chips.Chip
  devices: tuple[Any, ...]


def prepare_environment() -> None:
  """Sets what libtpu and jax read when loaded; call it before importing jax."""
  os.environ.update(_ENVIRONMENT)


def check_libtpu() -> str:
  """The version of libtpu; ValueError, with what to install, if unfit."""
  wanted = _wanted_libtpu()
  remedy = f"pip install 'libtpu{wanted}'"
  try:
    found = importlib.metadata.version("libtpu")
    importable = importlib.util.find_spec("libtpu") is not None
  except importlib.metadata.PackageNotFoundError:
    importable = False
  jax_version = importlib.metadata.version("jax")
  if not importable:
    raise ValueError(
      "libtpu is not installed: it holds the compiler for TPUs and needs no"
      f" TPU; jax {jax_version} wants: {remedy}"
    )
  if not fnmatch.fnmatchcase(found, wanted.removeprefix("==")):
    raise ValueError(
      f"libtpu is {found}: jax {jax_version} wants another one: {remedy}"
    )
  return found


def _wanted_libtpu() -> str:
  """What jax[tpu] asks for, such as "==0.0.42.*"."""
  for requirement in importlib.metadata.requires("jax") or ():
    found = re.match(r"libtpu\s*(==[\w.*]+)", requirement)
    if found:
      return found.group(1)
  return "==*"


def parse_name(name: str) -> tuple[chips.Chip, tuple[int, ...]]:
  """("v5e:4x4") > the chip and (4, 4); ValueError for an unknown slice."""
  found = _NAME.fullmatch(name)
  chip = chips.CHIPS.get(found.group(1)) if found else None
  if chip is None:
    raise ValueError(
      f"--topology {name}: no such TPU slice; {', '.join(chips.CHIPS)} are known,"
      f" for example {', '.join(EXAMPLES)}"
    )
  return chip, tuple(map(int, found.group(2).split("x")))


def open_slice(name: str) -> Slice:
  """Describes a slice.

  Args:
    name: generation and shape in chips, such as "v5e:4x4" or "v4:2x2x2".

  Returns:
    Slice.

  Raises:
    ValueError: unknown name or shape, or libtpu is missing or another version.
  """
  chip, shape = parse_name(name)
  check_libtpu()
  from jax.experimental import topologies

  options: dict[str, Any] = {}
  if chip.name == "v4":
    # Both cores of a chip as one device, as v4 is used; libtpu's default here
    # is a device a core.
    options["chip_config_name"] = "megacore"
  if set(shape) == {1}:
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    with _quiet():
      description = topologies.get_topology_desc(
        platform="tpu", topology_name=name, **options
      )
  except Exception as error:  # jax has its own, by several names.
    reason = " ".join(str(error).split())[:200]
    raise ValueError(
      f"--topology {name}: libtpu knows no such slice ({reason}); use for"
      f" example {', '.join(EXAMPLES)}"
    ) from None
  return Slice(name, chip, tuple(description.devices))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Drops what C++ writes to stderr, unless it is the end of the process.

  libtpu warns there that this is no TPU machine.
  """
  with tempfile.TemporaryFile() as file:
    saved = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(saved, 2)
      os.close(saved)
