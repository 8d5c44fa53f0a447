"""Stand-ins for the weights of LPIPS, made from their names.

The fixture was computed by the authors' network with exactly these: each array
is standard normal from a generator seeded with crc32("dev:<name>"), then scaled
by what it is.
"""

import ast
import pathlib
import zlib

import numpy as np

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def whole(network: str) -> dict[str, np.ndarray]:
  """Under the names of the whole LPIPS network, "net.slice1.0.weight" ..."""
  arrays = {}
  keys = (FIXTURES / f"lpips_{network}_keys.tsv").read_text()
  for line in keys.splitlines():
    name, shape = line.split("\t")
    shape = ast.literal_eval(shape)
    rng = np.random.default_rng(zlib.crc32(f"dev:{name}".encode()))
    array = rng.standard_normal(shape).astype(np.float32)
    if name.startswith("lin"):
      array = np.abs(array) / shape[1]
    elif name.endswith("bias"):
      array = 0.05 * array
    else:
      array = array * np.sqrt(2.0 / np.prod(shape[1:]))
    arrays[name] = array.astype(np.float32)
  return arrays


def files(network: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """As handed out: torchvision's classifier and the heads."""
  classifier = {"classifier.6.bias": np.zeros(1000, np.float32)}
  heads = {}
  for name, array in whole(network).items():
    if name.startswith("lin"):
      heads[name] = array
    else:
      layer = name.split(".", 2)[2]
      classifier[f"features.{layer}"] = array
  return classifier, heads
