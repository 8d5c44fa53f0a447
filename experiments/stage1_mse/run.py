"""Stage 1 with squared error only: train, evaluate, compare, draw.

    python experiments/stage1_mse/run.py --photographs PHOTOGRAPHS --kodak KODAK

Makes runs/stage1_mse (a work directory) and in it kodak.json and curves.png.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import curves
import study

STAGE1 = ("train.steps=7200", "optimizer.final_fraction=0.3")
PANELS = {
  "loss": ["loss"],
  "bits per pixel, of y and of z": ["y_bpp", "z_bpp"],
  "PSNR of training crops (dB)": ["psnr"],
}


def main() -> None:
  """Trains, evaluates, draws."""
  parser = study.make_parser(__doc__)
  parser.add_argument("--kodak", required=True, metavar="DIR")
  args = parser.parse_intermixed_args()
  workdir = pathlib.Path(args.runs) / "stage1_mse"
  study.train(workdir, args.photographs, *STAGE1, *args.overrides)
  curves.draw(workdir / "curves.png", {"stage 1": curves.read(workdir)}, PANELS)
  study.egic(
    "evaluate",
    "--images",
    args.kodak,
    "--model",
    str(workdir),
    "--json",
    str(workdir / "kodak.json"),
  )
  study.script("classical.py", "--images", args.kodak)


if __name__ == "__main__":
  main()
