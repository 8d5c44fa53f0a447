"""Time, memory, rate and seams of pictures of several tiles.

    python benchmarks/large_pictures.py --model MODEL --pictures FOLDER

FOLDER holds photographs of two megapixels and more. The pictures of the first
table are made of one of them by mirroring. Each picture is encoded and decoded in
a process of its own, whose largest resident memory is that of interpreter,
libraries, model and programs too, and whose time includes compilation or reading
the compilation cache. The processor's seconds, in brackets, are those of all
threads: on a busy machine they tell more. `--parts size` prints this table only, `--parts
seams` the other: what tiles cost in rate, and how the transforms taken window by
window differ from those of the whole picture, near the seams and elsewhere.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import provenance

from egic_jax import images, runtime

# Width x height; the last is one of 100 megapixels.
_SIZES = ((768, 512), (1024, 1024), (2048, 2048), (4096, 4096), (12288, 8192))
# Farther from a seam counts as elsewhere, in pixels.
_NEAR = 64


def mirrored(image: np.ndarray, width: int, height: int) -> np.ndarray:
  """A picture of any size: the photograph, reflected over and over."""
  rows, columns = (
    np.pad(np.arange(old), (0, max(0, new - old)), "symmetric")[:new]
    for old, new in zip(image.shape, (height, width), strict=False)
  )
  return image[rows[:, None], columns]


def one_way(argv: list[str]) -> None:
  """Encodes or decodes one picture; prints time and memory as JSON."""
  model, source, target = argv
  runtime.configure()
  from egic_jax.cli import models

  codec = models.open_codec(model)
  if source.endswith(".npy"):
    image = np.load(source)
    start, processor = time.perf_counter(), time.process_time()
    data = codec.encode(image)
    seconds = time.perf_counter() - start
    pathlib.Path(target).write_bytes(data)
  else:
    data = pathlib.Path(source).read_bytes()
    start, processor = time.perf_counter(), time.process_time()
    np.save(target, codec.decode(data))
    seconds = time.perf_counter() - start
  processor = time.process_time() - processor
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  result = {"seconds": seconds, "processor": processor, "gigabytes": peak}
  print(json.dumps({**result, "bytes": len(data)}))


def _measured(*argv: object) -> dict[str, float]:
  done = subprocess.run(
    [sys.executable, __file__, "--one-way", *map(str, argv)],
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _cells(run: dict[str, float]) -> str:
  return (
    f"{run['seconds']:.1f} ({run['processor']:.1f}) | {run['gigabytes']:.2f}"
  )


def sizes_table(
  model: str, photograph: np.ndarray, smallest: float, largest: float
) -> None:
  """Seconds and memory by size."""
  print(
    "| picture | megapixels | bpp | encode s | GB | decode s | GB | PSNR |\n"
    "|---|---|---|---|---|---|---|---|"
  )
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    for width, height in _SIZES:
      pixels = width * height
      if not smallest <= pixels / 1e6 <= largest:
        continue
      image = mirrored(photograph, width, height)
      np.save(place / "image.npy", image)
      encoded = _measured(model, place / "image.npy", place / "file.egic")
      decoded = _measured(model, place / "file.egic", place / "back.npy")
      back = np.load(place / "back.npy", mmap_mode="r")
      # Row by row: the whole in floating point would be gigabytes.
      error = np.mean(
        [
          np.mean(np.square(a - b.astype(float)))
          for a, b in zip(image, back, strict=True)
        ]
      )
      print(
        f"| {width} x {height} | {pixels / 1e6:.1f}"
        f" | {8 * encoded['bytes'] / pixels:.4f}"
        f" | {_cells(encoded)} | {_cells(decoded)}"
        f" | {10 * np.log10(255**2 / error):.2f} |",
        flush=True,
      )


@contextlib.contextmanager
def _one_window(side: int):
  """Lets tiles, windows and buckets be as large as the picture."""
  from egic_jax.bitstream import buckets, tiles

  before = buckets.SIDES, tiles.LONGEST
  buckets.SIDES, tiles.LONGEST = (*before[0], *range(17, side + 1)), side
  yield
  buckets.SIDES, tiles.LONGEST = before


def seams_table(model: str, photographs: list[pathlib.Path]) -> None:
  """What tiles cost and how far windows differ from the whole picture."""
  runtime.configure()
  from egic_jax.bitstream import programs, tiles, windowed
  from egic_jax.bitstream.codec import ImageCodec
  from egic_jax.cli import models

  opened = models.open_model(model)
  codec = ImageCodec.from_model(opened)
  config, params = opened.config, opened.params["codec"]
  networks = programs.programs(config)
  analyse = functools.partial(networks.analysis, params)

  def synthesis(y_hat, size):
    return windowed.synthesis(
      config,
      lambda *arguments: networks.synthesis(params, *arguments),
      y_hat,
      size,
    )[0]

  print(
    "| picture | bytes | in one tile | cost | y, near seams | elsewhere"
    " | image, near seams | elsewhere |\n|---|---|---|---|---|---|---|---|"
  )
  for path in photographs:
    image = images.read(path)
    size = image.shape[:2]
    z_size = tuple(-(-side // config.hyper_stride) for side in size)
    data = codec.encode(image)
    y = windowed.analysis(config, analyse, image[None])
    y_hat = np.round(y)
    parts = synthesis(y_hat, size)
    with _one_window(max(z_size)):
      whole_data = codec.encode(image)
      whole_y = windowed.analysis(config, analyse, image[None])
      whole = synthesis(y_hat, size)
    cells = []
    for windows, scale, difference in (
      (windowed.analysis_windows(z_size), 4, np.abs(y - whole_y)[0]),
      (
        windowed.synthesis_windows(z_size),
        config.hyper_stride,
        np.abs(parts.astype(int) - whole),
      ),
    ):
      near = np.zeros(difference.shape[:2], bool)
      reach = _NEAR * scale // config.hyper_stride
      for core in (window.core for window in windows):
        if core.top:
          near[core.top * scale - reach : core.top * scale + reach] = True
        if core.left:
          start = core.left * scale
          near[:, start - reach : start + reach] = True
      for where in (near, ~near):
        values = difference[where]
        cells.append(f"{values.max():.3g} ({np.mean(values > 0):.1e})")
    print(
      f"| {path.name}, {size[1]} x {size[0]}, {tiles.count(*z_size)} tiles"
      f" | {len(data):,} | {len(whole_data):,}"
      f" | {100 * len(data) / len(whole_data) - 100:+.2f} %"
      f" | {' | '.join(cells)} |",
      flush=True,
    )
  print(
    "\nLargest difference, and in brackets the share of values that differ; y in"
    " quantisation steps, the image in 255ths.\n"
  )


def main() -> None:
  """Prints the tables."""
  if sys.argv[1:2] == ["--one-way"]:
    one_way(sys.argv[2:])
    return
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", required=True)
  parser.add_argument("--pictures", required=True, type=pathlib.Path)
  parser.add_argument("--parts", default="size,seams")
  parser.add_argument("--smallest", type=float, default=0, help="megapixels")
  parser.add_argument("--largest", type=float, default=200, help="megapixels")
  args = parser.parse_args()

  photographs = sorted(args.pictures.glob("*.png"))
  print(f"{pathlib.Path(args.model).name}, {provenance.line()}\n")
  if "seams" in args.parts:
    seams_table(args.model, photographs)
  if "size" in args.parts:
    sizes_table(
      args.model, images.read(photographs[0]), args.smallest, args.largest
    )


if __name__ == "__main__":
  main()
