"""Does stage 1 in bfloat16, as on a GPU, end where float32 does?

    python experiments/bfloat16_training/run.py --photographs PHOTOGRAPHS \
        --kodak KODAK

Makes runs/bfloat16_training/PRECISION_SEED (work directories), kodak.json in
each, and beside them table.md and curves.png.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import curves
import study

SEEDS = (1, 2)
PRECISIONS = ("float32", "bfloat16")
SETTINGS = ("train.steps=3000", "optimizer.final_fraction=0.3")
# Of configs/tiny_mse.py.
DISTORTION_WEIGHT = 0.00234375
PANELS = {
  "loss": ["loss"],
  "bits per pixel": ["bpp"],
  "PSNR of training crops (dB)": ["psnr"],
}
_HERE = pathlib.Path(__file__).resolve().parent


def main() -> None:
  """Trains both precisions of a seed side by side, evaluates, draws."""
  parser = study.make_parser(__doc__)
  parser.add_argument("--kodak", required=True, metavar="DIR")
  args = parser.parse_intermixed_args()
  root = pathlib.Path(args.runs) / "bfloat16_training"
  for seed in SEEDS:
    _train(root, seed, args.photographs, args.overrides)
  rows, found = [], {}
  for precision in PRECISIONS:
    for seed in SEEDS:
      workdir = root / f"{precision}_{seed}"
      rows.append((precision, seed, _evaluate(workdir, args.kodak)))
      found[f"{precision}, seed {seed}"] = curves.read(workdir)
  (root / "table.md").write_text(_table(rows))
  print(f"\n{_table(rows)}")
  curves.draw(root / "curves.png", found, PANELS)


def _train(root, seed, photographs, overrides):
  """Each precision on a share of the processors, in a process of its own."""
  processors = sorted(os.sched_getaffinity(0))
  running = []
  for i, precision in enumerate(PRECISIONS):
    share = processors[i :: len(PRECISIONS)] or processors
    command = [
      sys.executable,
      str(_HERE / "as_accelerator.py"),
      *study.train_arguments(
        root / f"{precision}_{seed}",
        photographs,
        f"train.seed={seed}",
        f"model.compute_dtype={precision}",
        *SETTINGS,
        *overrides,
      ),
    ]
    print("\n$ " + " ".join(command), flush=True)
    pin = functools.partial(os.sched_setaffinity, 0, share)
    running.append(subprocess.Popen(command, preexec_fn=pin))
  if any([process.wait() for process in running]):
    sys.exit(1)


def _evaluate(workdir, kodak):
  """In full float32 whatever the model was trained in."""
  report = workdir / "kodak.json"
  study.egic(
    "evaluate",
    *("--images", kodak),
    *("--model", str(workdir)),
    *("--precision", "float32"),
    *("--json", str(report)),
  )
  found = json.loads(report.read_text())
  # What was minimised, of each picture.
  losses = [
    picture["bpp"] + DISTORTION_WEIGHT * 255**2 * 10 ** (-picture["psnr"] / 10)
    for picture in found["pictures"]
  ]
  return found["mean"] | {"loss": statistics.mean(losses)}


def _table(rows):
  lines = [
    "| computed in | seed | loss | bpp | PSNR, dB | MS-SSIM |",
    "|---|---|---|---|---|---|",
  ]
  for precision, seed, mean in rows:
    lines.append(
      f"| {precision} | {seed} | {mean['loss']:.4f} | {mean['bpp']:.4f} |"
      f" {mean['psnr']:.3f} | {mean['ms_ssim']:.4f} |"
    )
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  main()
