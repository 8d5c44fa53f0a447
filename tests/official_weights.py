"""Stand-ins for the official weights, made from their names.

The parity fixtures were computed by the official code with exactly these: each
array is standard normal from a generator seeded with crc32("dev:<name>"), then
scaled by what the name says it is.
"""

import ast
import gzip
import pathlib
import zlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def keys(model: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of an official checkpoint.

  Of `codec`, `orp` or `discriminator`.
  """
  text = gzip.decompress(
    (FIXTURES / f"official_{model}_keys.tsv.gz").read_bytes()
  )
  rows = (line.split("\t") for line in text.decode().splitlines())
  return {name: tuple(ast.literal_eval(shape)) for name, shape in rows}


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """The stand-in for one array."""
  rng = np.random.default_rng(zlib.crc32(f"dev:{name}".encode()))
  normal = rng.standard_normal(shape).astype(np.float32)
  parent, leaf = name.split("/")[-2:]
  centre, spread = {
    "gamma": (1, 0.1),
    "g": (1, 0.2),
    "_matrices": (0.5, 0.2),
    "_biases": (0, 0.5),
    "_factors": (0, 0.1),
    "relative_position_bias_table": (0, 0.2),
    "beta": (0, 0.02),
    "bias": (0, 0.02),
    "_bias_parameter": (0, 0.02),
  }.get(parent if parent.startswith("_") else leaf, (0, None))
  if spread is None:  # A kernel.
    return (normal / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)
  if name.startswith("cc_scale") and "weights-2" in name:
    centre, spread = 22, 4  # Scale indices in the middle of the table.
  return (centre + spread * normal).astype(np.float32)


def weights(model: str) -> dict[str, np.ndarray]:
  """{official name: array} of a whole model."""
  return {name: array(name, shape) for name, shape in keys(model).items()}
