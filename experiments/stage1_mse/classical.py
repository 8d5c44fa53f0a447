"""JPEG, WebP and AVIF on a folder of pictures: bpp, PSNR, MS-SSIM a quality.

    python experiments/stage1_mse/classical.py --images KODAK

Pillow's encoders, real bytes, the same metrics as `egic evaluate`.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

from egic_jax import images
from egic_jax.evaluation import folder, quality

SETTINGS = [
  ("JPEG", {"quality": q, "optimize": True}) for q in (5, 10, 15, 25)
] + [("WEBP", {"quality": q, "method": 6}) for q in (1, 10, 25, 45)]
SETTINGS += [("AVIF", {"quality": q, "speed": 4}) for q in (20, 30, 38, 46)]


def main() -> None:
  """Prints one line a codec and quality."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", required=True, type=pathlib.Path)
  args = parser.parse_args()
  pictures = [images.read(path) for path in folder.find_pictures(args.images)]
  print(f"{'codec':<6} {'quality':>7} {'bpp':>8} {'PSNR':>7} {'MS-SSIM':>8}")
  for codec, options in SETTINGS:
    rows = []
    for picture in pictures:
      stream = io.BytesIO()
      Image.fromarray(picture).save(stream, codec, **options)
      decoded = np.asarray(Image.open(stream).convert("RGB"))
      rows.append(
        (
          8 * stream.tell() / (picture.shape[0] * picture.shape[1]),
          quality.psnr(picture, decoded),
          quality.ms_ssim(picture, decoded),
        )
      )
    bpp, psnr, ms_ssim = np.mean(rows, axis=0)
    print(
      f"{codec:<6} {options['quality']:>7} {bpp:>8.4f} {psnr:>7.2f}"
      f" {ms_ssim:>8.4f}",
      flush=True,
    )


if __name__ == "__main__":
  main()
