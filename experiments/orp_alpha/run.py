"""Stages 2 and 3 on photographs, and what alpha does on evaluation pictures.

    python experiments/orp_alpha/run.py --photographs PHOTOGRAPHS --kodak KODAK

needs what experiments/oasis_c and experiments/stage1_mse leave in runs/. Makes
runs/orp_alpha: gan/ and orp/ (work directories), model.safetensors, curves.png,
alpha.json and crops.png.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import curves
import scores
import study

import egic_jax
from egic_jax import images
from egic_jax.evaluation import folder, quality
from egic_jax.training import panels

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = (0.0, 0.5, 1.0)
# File name, top and left of the crops of the picture.
CROPS = (("kodim03", 60, 430), ("kodim08", 200, 300), ("kodim22", 240, 380))
CROP_SIZE = 192

GAN = (
  *study.JITTER,
  "data.batch_size=16",
  "train.stage=stage2_gan",
  "train.steps=1500",
  "train.ema_decay=0.995",
  "train.log_every=20",
  "train.checkpoint_every=25",
  "train.sample_every=100",
  "optimizer.learning_rate=2e-4",
  "optimizer.final_learning_rate=2e-4",
  "optimizer.warmup_steps=20",
)
ORP = (
  *study.JITTER,
  "train.stage=stage3_orp",
  "train.steps=400",
  "train.log_every=20",
  "train.checkpoint_every=50",
  "train.sample_every=100",
  "optimizer.learning_rate=3e-4",
  "optimizer.final_learning_rate=3e-5",
  "optimizer.final_fraction=0.3",
  "optimizer.warmup_steps=20",
)
PANELS = {
  "D: cross-entropy": ("d_real", "d_fake"),
  "D: LabelMix": ("d_labelmix",),
  "D: shares of pixels": ("d_accuracy", "d_fakes_found"),
  "G: cross-entropy of D(G)": ("adversarial",),
  "G: squared error (0..255)": ("mse_255",),
  "norms of gradients": ("generator_grad_norm", "discriminator_grad_norm"),
  "held-out PSNR, moving average (dB)": ("sample_psnr",),
  "held-out pixels that D calls fake": ("sample_fake_D_output",),
  "stage 3: PSNR of head and g_s (dB)": ("psnr (orp)", "psnr_gan"),
}


def sweep(
  model: pathlib.Path, kodak: str, alphas: Sequence[float] = ALPHAS
) -> tuple[dict[float, dict[str, float]], dict[str, list[np.ndarray]]]:
  """Codes a folder of pictures, real bytes.

  Returns:
    (alpha > means over the pictures, name > crops of the original and of what
    each alpha gives, of the pictures in CROPS).
  """
  codec = egic_jax.load_model(model)
  rows: dict[float, list] = {alpha: [] for alpha in alphas}
  shown: dict[str, list] = {}
  wanted = {name: (top, left) for name, top, left in CROPS}
  for path in folder.find_pictures(kodak):
    original = images.read(path)
    data = egic_jax.encode(codec, original)
    outputs = {alpha: egic_jax.decode(codec, data, alpha) for alpha in alphas}
    energy = scores.gradient_energy(original)
    for alpha, output in outputs.items():
      rows[alpha].append(
        (
          8 * len(data) / (original.shape[0] * original.shape[1]),
          quality.psnr(original, output),
          quality.ms_ssim(original, output),
          scores.gradient_energy(output) / energy,
        )
      )
    if path.stem in wanted:
      shown[path.stem] = [
        _cut(picture, *wanted[path.stem])
        for picture in (original, *outputs.values())
      ]
  names = ("bpp", "psnr", "ms_ssim", "gradient_energy")
  means = {
    alpha: dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
    for alpha, found in rows.items()
  }
  return means, shown


def _cut(picture, top, left):
  return picture[top : top + CROP_SIZE, left : left + CROP_SIZE]


def main() -> None:
  """Trains, exports, measures, draws."""
  parser = study.make_parser(__doc__)
  parser.add_argument("--kodak", required=True, metavar="DIR")
  parser.add_argument("--stage0", metavar="WORKDIR", help="of oasis_c")
  parser.add_argument("--stage1", metavar="WORKDIR", help="of stage1_mse")
  args = parser.parse_intermixed_args()
  runs = pathlib.Path(args.runs)
  stage0 = args.stage0 or runs / "oasis_c" / "weight"
  stage1 = args.stage1 or runs / "stage1_mse"
  here = runs / "orp_alpha"
  gan, orp, model = here / "gan", here / "orp", here / "model.safetensors"
  study.train(
    gan,
    args.photographs,
    *GAN,
    f"train.init_from={stage1}",
    f"train.init_discriminator={stage0}",
    *args.overrides,
  )
  study.train(
    orp, args.photographs, *ORP, f"train.init_from={gan}", *args.overrides
  )
  study.egic("export", str(orp), "--to", str(model))
  stage3 = curves.read(orp)
  both = curves.read(gan) | {
    "psnr (orp)": stage3["psnr"],
    "psnr_gan": stage3["psnr_gan"],
  }
  curves.draw(here / "curves.png", {"": both}, PANELS)
  means, crops = sweep(model, args.kodak)
  before, first = sweep(stage1, args.kodak, (1.0,))
  (here / "alpha.json").write_text(
    json.dumps({"stage 1": before[1.0], **means}, indent=2) + "\n"
  )
  if crops:
    titles = ["original", "stage 1", *(f"alpha {a:g}" for a in SHOWN)]
    rows = [
      [row[0], first[name][1], *(row[1 + ALPHAS.index(a)] for a in SHOWN)]
      for name, row in crops.items()
    ]
    sheet = panels.make_panel(rows, [titles] * len(rows))
    images.write(here / "crops.png", sheet)
  print(
    f"\n{'alpha':>7} {'bpp':>7} {'PSNR':>7} {'MS-SSIM':>8} {'gradients':>9}"
  )
  for alpha, mean in {"stage 1": before[1.0], **means}.items():
    print(
      f"{alpha:>7} {mean['bpp']:>7.4f} {mean['psnr']:>7.3f}"
      f" {mean['ms_ssim']:>8.4f} {mean['gradient_energy']:>9.4f}"
    )
  print(f"\nlook at {here}")


if __name__ == "__main__":
  main()
