"""Encodes or decodes many files in one process, under one way of computing.

Started by run.py, once for each way; what is asked for comes as JSON on the
command line, what was found goes out as one line of JSON.
"""

import json
import os
import pathlib
import sys
import time

import jax
import numpy as np

from egic_jax import images, runtime
from egic_jax.bitstream import (
  codec,
  container,
  latents,
  model_file,
  programs,
  tiles,
)
from egic_jax.models import codec as codec_lib
from egic_jax.models import presets

REQUEST = json.loads(sys.argv[1])
# Files whose scale indices are compared number by number.
COMPARED = 12


def made_up_model(preset: str) -> model_file.Model:
  """Untrained parameters with scale indices that spread over the tables.

  Those of an untrained model lie all at one end, far from any boundary that
  could be missed; these lie as those of a trained one do.
  """
  config = presets.get_preset(preset)
  params = codec_lib.init_codec_params(config, seed=0)
  rng = np.random.default_rng(0)
  for name, network in params["charm"].items():
    if name.startswith("scale_"):
      last = network["conv_2"]
      last["kernel"] = 20 * last["kernel"]
      last["bias"] = rng.normal(4, 6, last["bias"].shape).astype(np.float32)
  return model_file.build_model(config, {"codec": params})


class Watched:
  """Networks that add noise, if asked, and keep the scale indices."""

  def __init__(self, networks: programs.Programs, noise: float):
    self._networks = networks
    self._noise = noise
    self._rng = np.random.default_rng(0)
    self.indices = []

  def networks(self) -> programs.Programs:
    return self._networks._replace(
      hyper_synthesis=self._hyper_synthesis,
      slice_parameters=self._slice_parameters,
    )

  def _disturbed(self, x):
    if not self._noise:
      return x
    noise = self._rng.uniform(-self._noise, self._noise, x.shape)
    return (np.asarray(x, np.float64) + noise).astype(np.float32)

  def _hyper_synthesis(self, *args):
    return tuple(map(self._disturbed, self._networks.hyper_synthesis(*args)))

  def _slice_parameters(self, *args):
    mean, scale_index = map(
      self._disturbed, self._networks.slice_parameters(*args)
    )
    self.indices.append(np.asarray(scale_index))
    return mean, scale_index


def encode(model: model_file.Model, folder: pathlib.Path) -> dict:
  """Writes a file for every picture."""
  image_codec = codec.ImageCodec.from_model(model)
  size, pixels, rounding = 0, 0, []
  for i, path in enumerate(REQUEST["images"]):
    image = images.read(path)
    data = image_codec.encode(image)
    (folder / f"{i:04}.egic").write_bytes(data)
    size += len(data)
    pixels += image.shape[0] * image.shape[1]
    if i < COMPARED:
      facts = image_codec.inspect(data)
      rounding.append(facts["rounding_bytes"] / facts["bytes"])
  return {"bpp": 8 * size / pixels, "rounding": float(np.mean(rounding))}


def decode(model: model_file.Model, folder: pathlib.Path) -> dict:
  """Decodes every file to its symbols, and compares."""
  watched = Watched(programs.programs(model.config), REQUEST.get("noise", 0.0))
  params = jax.tree.map(jax.numpy.asarray, model.params["codec"])
  coder = latents.LatentCoder(
    model.config, params, model.tables, watched.networks()
  )
  copies = REQUEST.get("batch", 1)
  equal, noticed, deviation = 0, 0, 0.0
  files = sorted(folder.glob("*.egic"))[: REQUEST.get("limit")]
  for i, path in enumerate(files):
    header = container.unpack(path.read_bytes())
    watched.indices.clear()
    checksums = [0] * copies
    try:
      for region, payload in zip(
        tiles.tiles(*header.z_size), header.payloads, strict=True
      ):
        found, _ = coder.decode(
          [payload] * copies, region.size, region.coded(header.size)
        )
        checksums = [
          symbols.checksum(start)
          for symbols, start in zip(found, checksums, strict=True)
        ]
    except container.BitstreamError:
      noticed += 1
      continue
    same = all(c == header.symbol_checksum for c in checksums)
    equal += same
    noticed += not same
    if i < COMPARED and same:
      indices = np.concatenate([x[0].ravel() for x in watched.indices])
      reference = folder / f"{i:04}.npy"
      if REQUEST.get("reference"):
        np.save(reference, indices)
      else:
        off = np.abs(indices - np.load(reference))
        deviation = max(deviation, float(off.max()))
  return {
    "files": len(files),
    "equal": equal,
    "noticed": noticed,
    "deviation": deviation,
    "jax": jax.__version__,
    "platform": jax.default_backend(),
  }


def main() -> None:
  if REQUEST.get("one_core"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  runtime.configure()
  folder = pathlib.Path(REQUEST["folder"])
  source = REQUEST["model"]
  if source in presets.preset_names():
    model = made_up_model(source)
  else:
    model = model_file.load_model(source)
  start = time.perf_counter()
  result = {"encode": encode, "decode": decode}[REQUEST["task"]](model, folder)
  result["seconds"] = time.perf_counter() - start
  print(json.dumps(result))


if __name__ == "__main__":
  main()
