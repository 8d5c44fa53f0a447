"""Pictures at equal bytes: crops of ours and of classical codecs in a panel."""

import pathlib
from collections.abc import Sequence

import classical
import numpy as np

from egic_jax import images
from egic_jax.bitstream import codec as codec_lib
from egic_jax.evaluation import quality as metrics
from egic_jax.training import panels

# Name of a picture > top and left of its crop, and what it shows.
CROPS = {
  "kodim04": (290, 150, "a face"),
  "kodim08": (215, 544, "text, half-timbering"),
  "kodim21": (60, 230, "sky, fine edges"),
  "kodim22": (120, 200, "foliage"),
  "clic_alberto-montalesi-176097": (440, 900, "fringes on a smooth ground"),
  "flower_foveon": (670, 1220, "a stamen"),
  "wikipedia_030": (540, 170, "ornaments"),
}
CROP_SIZE = 224
CODECS = ("WebP", "AVIF", "HEVC")


def panel(
  codec: codec_lib.ImageCodec,
  paths: Sequence[pathlib.Path],
  quality: float | None,
  outputs: dict[str, float],
) -> tuple[np.ndarray | None, list[dict]]:
  """Codes those of the pictures that have a crop.

  Args:
    codec: ours.
    paths: pictures.
    quality: of our files, which others must not exceed.
    outputs: how our pictures are called > alpha.

  Returns:
    (panel or None without such pictures, what is in it: a record each of
    picture, codec, bytes and PSNR of the whole picture).
  """
  others = [c for c in classical.available() if c.name in CODECS]
  rows, captions, records = [], [], []
  for path in paths:
    if path.stem not in CROPS:
      continue
    top, left, what = CROPS[path.stem]
    original = images.read(path)
    data = codec.encode(original, quality)
    row, texts = [original], [f"{path.stem}, {what}: original"]
    coded = [
      (name, codec.decode(data, alpha), len(data), True)
      for name, alpha in outputs.items()
    ]
    for other in others:
      found, fits = other.largest_within(original, len(data))
      coded.append((other.name, other.decode(found), len(found), fits))
    for name, decoded, num_bytes, fits in coded:
      psnr = metrics.psnr(original, decoded)
      size = f"{num_bytes:,} bytes" + ("" if fits else " (its smallest)")
      row.append(decoded)
      texts.append(f"{name}: {size}, {psnr:.2f} dB")
      records.append(
        {"picture": path.name, "codec": name, "bytes": num_bytes, "psnr": psnr}
      )
    rows.append(
      [
        picture[top : top + CROP_SIZE, left : left + CROP_SIZE]
        for picture in row
      ]
    )
    captions.append(texts)
  return (panels.make_panel(rows, captions) if rows else None), records
