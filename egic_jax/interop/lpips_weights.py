"""LPIPS weights from the files that their authors hand out.

Two files make a network: torchvision's classifier and the linear heads of
LPIPS, version 0.1. Both are torch's `.pth` and are read as they are; nothing
has to be converted. One file that holds both (the state of the `lpips` package's
whole network) will do as well.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from egic_jax.interop import torch_pth
from egic_jax.losses import perceptual

_CLASSIFIERS = "https://download.pytorch.org/models"
_HEADS = (
  "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights"
  f"/v{perceptual.VERSION}"
)

# torchvision names its files after the first digits of their SHA-256.
SOURCES: Mapping[str, tuple[str, str]] = {
  "alex": (f"{_CLASSIFIERS}/alexnet-owt-7be5be79.pth", f"{_HEADS}/alex.pth"),
  "vgg": (f"{_CLASSIFIERS}/vgg16-397923af.pth", f"{_HEADS}/vgg.pth"),
}
_DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.pth$")


class LpipsWeightsError(ValueError):
  """There are no weights, or not those of this network."""


@dataclasses.dataclass(frozen=True)
class LpipsWeights:
  """A network's weights and where they are from.

  Attributes:
    params: for `perceptual.lpips`, float32 numpy arrays.
    network: "alex" or "vgg".
    sha256: {file name: SHA-256}, for the log and for pinning.
  """

  params: dict[str, Any]
  network: str
  sha256: dict[str, str]

  def describe(self) -> str:
    """One line: network, version, files and the beginning of their digests."""
    files = ", ".join(f"{k} (sha256 {v[:12]})" for k, v in self.sha256.items())
    return f"LPIPS {self.network} v{perceptual.VERSION} from {files}"


def how_to_get(network: str) -> str:
  """What to download, in one line, and that it is used as it is."""
  perceptual.network(network)  # Refuses another name.
  classifier, heads = SOURCES[network]
  return (
    f"download {classifier} and {heads} and name both files; they are read as"
    " they are, nothing has to be converted and torch is not needed. To train"
    " without LPIPS, set its weight to 0"
  )


def load(
  paths: Sequence[str | os.PathLike],
  network: str = "alex",
  sha256: Mapping[str, str] | None = None,
) -> LpipsWeights:
  """Reads the weights of LPIPS.

  Args:
    paths: the classifier's file and the heads' file, in any order, or one that
      holds both.
    network: "alex" or "vgg".
    sha256: {file name without folder: digest or its first digits} to check.
      Where there is none, digits that the file's name ends in are checked, as
      in `alexnet-owt-7be5be79.pth`.

  Returns:
    LpipsWeights.

  Raises:
    LpipsWeightsError: a file is missing (says what to download), is another one
      than its digest says, cannot be read, or arrays are missing, unknown or
      misshapen (each listed by name). One line.
  """
  how = how_to_get(network)
  if not paths:
    raise LpipsWeightsError(f"no LPIPS weights are given; {how}")
  expected = dict(sha256 or {})
  arrays: dict[str, np.ndarray] = {}
  digests = {}
  for path in map(os.fspath, paths):
    name = os.path.basename(path)
    stated = _DIGEST_IN_NAME.search(name)
    try:
      file = torch_pth.read(
        path, expected.pop(name, stated.group(1) if stated else None)
      )
    except FileNotFoundError:
      raise LpipsWeightsError(
        f"no such file of LPIPS weights: {path}; {how}"
      ) from None
    except torch_pth.TorchFileError as error:
      raise LpipsWeightsError(str(error)) from None
    except OSError as error:
      raise LpipsWeightsError(
        f"cannot read {path}: {error.strerror or error}"
      ) from None
    arrays |= file.arrays
    digests[name] = file.sha256
  if expected:
    raise LpipsWeightsError(
      f"sha256 is given for {', '.join(sorted(expected))}, but there is no such"
      f" file among {', '.join(sorted(digests))}"
    )
  return LpipsWeights(from_arrays(arrays, network), network, digests)


def from_arrays(
  arrays: Mapping[str, np.ndarray], network: str
) -> dict[str, Any]:
  """Our parameters from arrays under torch's names.

  Args:
    arrays: torchvision's ("features.0.weight", ...) with the heads'
      ("lin0.model.1.weight", ...), or those of the whole LPIPS network
      ("net.slice1.0.weight", ...). Classifier layers and the colour constants,
      which the network has no use for or knows, may be among them.
    network: "alex" or "vgg".

  Returns:
    The tree of `perceptual.param_shapes`, float32 numpy arrays.

  Raises:
    LpipsWeightsError: arrays are missing, unknown or misshapen, by name.
  """
  found = {}
  for name, array in arrays.items():
    clean = _plain_name(name)
    if clean is not None:
      found[clean] = (name, np.asarray(array))
  missing, misshapen = [], []
  tree: dict[str, Any] = {}
  for layer, leaves in perceptual.param_shapes(network).items():
    tree[layer] = {}
    for leaf, shape in leaves.items():
      wanted = _torch_name(layer, leaf)
      if wanted not in found:
        missing.append(wanted)
        continue
      name, array = found.pop(wanted)
      torch_shape = _torch_shape(leaf, shape.shape)
      if array.shape != torch_shape:
        misshapen.append(f"{name} {array.shape} instead of {torch_shape}")
        continue
      array = array.astype(np.float32)
      if not np.isfinite(array).all():
        raise LpipsWeightsError(f"{name} has non-finite values")
      if array.ndim == 4:
        array = np.ascontiguousarray(array.transpose(2, 3, 1, 0))
      tree[layer][leaf] = array.reshape(shape.shape)
  unknown = sorted(name for name, _ in found.values())
  problems = [
    f"{len(listed)} {what}: {', '.join(listed)}"
    for what, listed in (
      ("missing", missing),
      ("unknown", unknown),
      ("misshapen", misshapen),
    )
    if listed
  ]
  if problems:
    raise LpipsWeightsError(
      f"not the weights of LPIPS {network}; arrays {'; '.join(problems)};"
      f" {how_to_get(network)}"
    )
  return tree


def _plain_name(name: str) -> str | None:
  """torchvision's name for an array of LPIPS, the heads' own for theirs.

  None for what there is no need of: fully connected layers, colour constants.
  """
  if name.startswith(("classifier.", "scaling_layer.")):
    return None
  name = re.sub(r"^net\.slice\d+\.", "features.", name)
  # The package keeps its heads twice, the second time in a list.
  return re.sub(r"^lins\.(\d+)\.", r"lin\1.", name)


def _torch_name(layer: str, leaf: str) -> str:
  kind, number = layer.split("_")
  if kind == "head":
    return f"lin{number}.model.1.weight"
  return f"features.{number}.{'weight' if leaf == 'kernel' else 'bias'}"


def _torch_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """torch's shape of one of our arrays: output channels come first there."""
  if leaf == "bias":
    return shape
  if len(shape) == 1:  # A head: the 1x1 convolution to one channel.
    return (1, *shape, 1, 1)
  height, width, inputs, outputs = shape
  return (outputs, inputs, height, width)
