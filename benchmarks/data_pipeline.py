"""Images/s of the input pipeline, and the cores that an accelerator asks for.

    python benchmarks/data_pipeline.py --folder PHOTOGRAPHS

Batches are cut as configs/full_mse.py has it: longer side 640, scale 0.5 to 1.5,
256 x 256, flips. A row is measured once the buffers are full: images/s of wall
time, and CPU time an image over all threads and worker processes, which says
more than images/s where other work runs.

The demand is arithmetic, not a measurement: floating-point operations of a
training step, and a share of a chip's published bf16 peak.
"""

import argparse
import importlib.util
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time

# Nothing here needs an accelerator; a busy one is left alone.
os.environ["JAX_PLATFORMS"] = "cpu"

import numpy as np
import provenance

from egic_jax import images
from egic_jax.data import datasets, pipeline
from egic_jax.training import chips

_ROOT = pathlib.Path(__file__).resolve().parents[1]

# As configs/full_mse.py.
_CUT = {
  "crop_size": 256,
  "max_side": 640,
  "enlarge": True,
  "padding": "mean",
  "scale_range": (0.5, 1.5),
  "scale_step": 0.1,
}
_INPUTS = {
  "image": {"with_labels": False},
  "image, label, weight": {"with_weights": True, "labelled_only": True},
}
_POLICY = {"color_policy": "simple_classification_0.2"}

# Stage 1, full size, rate and squared error: 110 GMAC each way at 512 x 768, so
# 73 GFLOP forward for 256 x 256, and three times that with the gradient.
_TFLOP_PER_IMAGE = 1.76 / 8
# Published dense bf16 peaks, TFLOP/s a chip.
_PEAKS = {"TPU v5e": chips.CHIPS["v5e"].peak_flops / 1e12, "H200": 989}
_SHARES = (0.20, 0.35)


def open_datasets(
  data_dir: pathlib.Path, folder: str | None
) -> dict[str, pipeline.Dataset]:
  """{name in the table: prepared dataset}."""
  found = {
    "synthetic_scenes, 320 x 320 PNG": datasets.prepare(
      datasets.DatasetSpec(data_dir=str(data_dir))
    )
  }
  if folder:
    found["photographs of --folder"] = datasets.prepare(
      datasets.DatasetSpec(
        name="image_label_folder",
        folder=folder,
        taxonomy="photographs",
        data_dir=str(data_dir),
      )
    )
  painted = data_dir / "painted"
  if not painted.exists():
    # Not fewer: grain's shuffle of N elements takes 65,536 / N rounds for each.
    _tiny_coco().write(painted, train=120, longer_side=640)
  found["painted COCO, 480 x 640 JPEG"] = datasets.prepare_coco(
    data_dir, directory=painted, allow_subset=True
  )
  return found


def _tiny_coco():
  path = _ROOT / "experiments" / "tiny_coco" / "make.py"
  spec = importlib.util.spec_from_file_location("tiny_coco_make", path)
  make = importlib.util.module_from_spec(spec)
  # Dataclasses look their module up.
  sys.modules[spec.name] = make
  spec.loader.exec_module(make)
  return make


def measure(
  dataset: pipeline.Dataset, *, batch: int, seconds: float, **options
) -> tuple[float, float]:
  """(images/s of wall time, CPU seconds an image) of make_train_iterator."""
  iterator = pipeline.make_train_iterator(
    dataset, global_batch_size=batch, **(_CUT | options)
  )
  try:
    # All buffers, and with a cache every picture a few times over.
    settle = 4 + 2 * options["prefetch"] * (1 + options["num_workers"])
    if options.get("cache_decoded"):
      settle += 4 * pipeline.num_records(dataset) // batch
    for _ in range(settle):
      next(iterator)
    taken, start, used = 0, time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - start < seconds:
      next(iterator)
      taken += batch
    wall, used = time.perf_counter() - start, _cpu_seconds() - used
  finally:
    iterator.close()
  return taken / wall, used / taken


def overhead(data_dir: pathlib.Path, *, batch: int, seconds: float) -> float:
  """CPU seconds an image that are not pixels: 16 x 16 of pictures 32 x 32.

  Pillow and NumPy let other threads run while they decode, resample and copy;
  the rest is Python, one thread at a time. This bounds it from above.
  """
  folder = data_dir / "small_pictures"
  if not folder.exists():
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1000):
      picture = rng.integers(0, 256, (32, 32, 3), np.uint8)
      images.write(folder / f"{number}.png", picture)
  dataset = datasets.prepare(
    datasets.DatasetSpec(
      name="image_label_folder", folder=folder, data_dir=str(data_dir)
    )
  )
  _, cost = measure(
    dataset,
    batch=batch,
    seconds=seconds,
    num_threads=1,
    num_workers=0,
    prefetch=4,
    with_labels=False,
    crop_size=16,
    max_side=None,
    enlarge=False,
    scale_range=(1.0, 1.0),
  )
  return cost


def _cpu_seconds() -> float:
  """CPU time of this process and of its workers, so far."""
  total = time.process_time()
  for child in multiprocessing.active_children():
    fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text()
    # utime and stime; what stands before the bracket may hold blanks.
    ticks = sum(map(int, fields.rpartition(")")[2].split()[11:13]))
    total += ticks / os.sysconf("SC_CLK_TCK")
  return total


def rows(args, dataset) -> list[tuple[str, dict]]:
  """(inputs and options in words, arguments) of each measurement."""
  threads = [int(number) for number in args.threads.split(",")]
  few = threads[min(1, len(threads) - 1)]
  made = []
  for inputs, arguments in _INPUTS.items():
    for number in threads:
      made.append((inputs, arguments | {"num_threads": number}))
    arguments = arguments | {"num_threads": few}
    made.append((f"{inputs}; colour policy", arguments | _POLICY))
    if pipeline.num_records(dataset) <= 300:
      made.append((f"{inputs}; cached", arguments | {"cache_decoded": True}))
  for number in map(int, args.workers.split(",") if args.workers else ()):
    arguments = {"num_workers": number, "num_threads": 1}
    made.append(("image", _INPUTS["image"] | arguments))
  return made


def main() -> None:
  """Prints one table of supply, one of demand."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--folder", help="photographs with label maps")
  parser.add_argument("--data-dir", help="kept; by default a temporary folder")
  parser.add_argument("--threads", default="1,2,4")
  parser.add_argument("--workers", default="1,2", help='"" for none')
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--seconds", type=float, default=4.0, help="of a row")
  args = parser.parse_args()

  with tempfile.TemporaryDirectory() as scratch:
    found = open_datasets(pathlib.Path(args.data_dir or scratch), args.folder)
    print(
      f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f},"
      f" {provenance.line()}\n"
    )
    print("| data | inputs | workers x threads | images/s | CPU ms an image |")
    print("|---|---|---|---|---|")
    costs = {}
    for name, dataset in found.items():
      for words, arguments in rows(args, dataset):
        arguments = {"num_workers": 0, "prefetch": 4} | arguments
        rate, cost = measure(
          dataset, batch=args.batch, seconds=args.seconds, **arguments
        )
        # The first row of each is what stage 1 takes.
        costs.setdefault(name, cost)
        workers, threads = arguments["num_workers"], arguments["num_threads"]
        print(
          f"| {name} | {words} | {workers or '-'} x {threads} | {rate:.0f} |"
          f" {1e3 * cost:.1f} |",
          flush=True,
        )

    data_dir = pathlib.Path(args.data_dir or scratch)
    cost = overhead(data_dir, batch=args.batch, seconds=args.seconds)
    print(
      f"\nNot pixels: at most {1e3 * cost:.2f} ms an image, so threads of one"
      f" process go up to {1 / cost:.0f} images/s at least, given the cores."
    )

  print("\n| chip, share of its bf16 peak | images/s | cores to feed it, of: |")
  print("|---|---|" + "---|" * len(costs))
  print("| | | " + " | ".join(costs) + " |")
  for chip, peak in _PEAKS.items():
    for share in _SHARES:
      wanted = peak * share / _TFLOP_PER_IMAGE
      cores = " | ".join(f"{wanted * cost:.1f}" for cost in costs.values())
      print(
        f"| {chip} ({peak:.0f} TFLOP/s), {share:.0%} | {wanted:.0f} | {cores} |"
      )


if __name__ == "__main__":
  main()
