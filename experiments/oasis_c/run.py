"""OASIS-C as a segmentation network on photographs: stage 0, against chance.

    python experiments/oasis_c/run.py --photographs PHOTOGRAPHS

Makes runs/oasis_c: a work directory for each normalisation, curves.png,
segmentation.png and scores.json. To compare normalisations at equal steps:

    python experiments/oasis_c/run.py --photographs PHOTOGRAPHS \
        --runs runs/compared --normalizations weight spectral none \
        train.steps=1500
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import curves
import study

from egic_jax import images
from egic_jax.data import pipeline
from egic_jax.models.discriminators import oasis_c, presets
from egic_jax.training import (
  checkpoints,
  objectives,
  panels,
  validation,
  views,
)

STAGE0 = (
  *study.JITTER,
  "train.stage=stage0_discriminator",
  "train.steps=6000",
  "train.validate_every=500",
  "train.num_validation=0",
  "train.checkpoint_every=500",
  "train.sample_every=1000",
  "optimizer.final_fraction=0.3",
)
PICTURES = 12


def chance(pixels: np.ndarray) -> dict[str, dict[str, float]]:
  """Scores of guessing without looking.

  Args:
    pixels: (N,) labelled pixels of each class.

  Returns:
    What is guessed > scores: the most frequent class everywhere, each pixel by
    the classes' frequencies, each pixel any class. Those that draw have the
    scores of their expected confusion.
  """
  frequency = pixels / pixels.sum()
  guesses = {
    "most frequent class": np.eye(len(pixels))[np.argmax(pixels)],
    "drawn by frequency": frequency,
    "drawn evenly": np.full(len(pixels), 1 / len(pixels)),
  }
  return {
    name: validation.scores(np.outer(pixels, guess))
    for name, guess in guesses.items()
  }


def open_data(workdir: pathlib.Path):
  """The data set that a work directory was trained on, as prepared by TFDS."""
  data = checkpoints.read_config(workdir)["data"]
  names = {field.name for field in dataclasses.fields(pipeline.DatasetSpec)}
  return pipeline.prepare(
    pipeline.DatasetSpec(**{k: v for k, v in data.items() if k in names})
  )


def segment_validation(workdir: pathlib.Path, dataset):
  """Segments the middle squares of the validation pictures with labels.

  Returns:
    (photographs (M, S, S, 3) uint8, labels (M, S, S) uint8, segmentation (M, S,
    S) int32), of all M.
  """
  size, params, _ = checkpoints.load_discriminator(workdir)

  @jax.jit
  def predict(image):
    # Spectral norm needs its vectors, which are not parameters: here they
    # settle from the kernels.
    logits, _ = oasis_c.segment(size, params, state, objectives.to_float(image))
    return oasis_c.predicted_labels(logits)

  state = oasis_c.init_state(size, params, 0)
  data = checkpoints.read_config(workdir)["data"]
  found = []
  for batch in pipeline.make_eval_batches(
    dataset,
    global_batch_size=8,
    crop_size=data["crop_size"],
    padding=data["padding"],
    max_side=data["max_side"] or None,
    enlarge=data["enlarge"],
    labelled_only=True,
  ):
    predicted = np.asarray(predict(batch["image"]))
    found.append(
      [x[batch["valid"]] for x in (batch["image"], batch["label"], predicted)]
    )
  return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def draw_segmentations(path, names, photographs, labels, predicted):
  """A sheet of some pictures, evenly from all, and a legend of their labels."""
  shown = np.linspace(0, len(photographs) - 1, PICTURES + 2).astype(int)[1:-1]
  colours = views.palette(len(names) - 1)
  pictures, captions = [], []
  for i in shown:
    known = labels[i] != 0
    right = np.mean((predicted[i] == labels[i])[known]) if known.any() else 0
    pictures += [photographs[i], colours[labels[i]], colours[predicted[i]]]
    captions += ["photograph", "labels", f"OASIS-C: {right:.0%} right"]
  rows = range(0, len(pictures), 6)
  sheet = panels.make_panel(
    [pictures[i : i + 6] for i in rows], [captions[i : i + 6] for i in rows]
  )
  present = np.unique(np.concatenate([labels[shown], predicted[shown]]))
  images.write(path, np.concatenate([sheet, _legend(sheet, names, present)]))


def _legend(sheet, names, present):
  """Rows of coloured squares with names, as wide as *sheet*."""
  columns, cell = 6, 16
  rows = -(-len(present) // columns)
  canvas = Image.new("RGB", (sheet.shape[1], rows * cell + 4), "white")
  draw = ImageDraw.Draw(canvas)
  colours = views.palette(len(names) - 1)
  for k, label in enumerate(present):
    left = (k % columns) * sheet.shape[1] // columns + 2
    top = (k // columns) * cell + 4
    draw.rectangle(
      (left, top, left + 11, top + 11), fill=tuple(map(int, colours[label]))
    )
    draw.text((left + 16, top), names[label], fill="black")
  return np.asarray(canvas)


def _best(score, guessed):
  value, what = max((scores[score], what) for what, scores in guessed.items())
  return {f"chance, {what}": value}


def main() -> None:
  """Trains, measures, draws."""
  parser = study.make_parser(__doc__)
  parser.add_argument(
    "--normalizations",
    nargs="+",
    default=["weight"],
    choices=presets.NORMALIZATIONS,
  )
  args = parser.parse_intermixed_args()
  here = pathlib.Path(args.runs) / "oasis_c"
  workdirs = {name: here / name for name in args.normalizations}
  for name, workdir in workdirs.items():
    study.train(
      workdir,
      args.photographs,
      *STAGE0,
      f"model.normalization={name}",
      *args.overrides,
    )
  first = workdirs[args.normalizations[0]]
  dataset = open_data(first)
  names = pipeline.class_names(dataset)
  photographs, labels, predicted = segment_validation(first, dataset)
  draw_segmentations(
    here / "segmentation.png", names, photographs, labels, predicted
  )
  pixels = np.bincount(labels.ravel(), minlength=len(names))[1:]
  guessed = chance(pixels)
  confusion = validation.confusion_matrix(predicted, labels, len(names) - 1)
  measured = validation.scores(np.asarray(confusion))

  runs = {name: curves.read(workdir) for name, workdir in workdirs.items()}
  curves.draw(
    here / "curves.png",
    runs,
    {
      "training loss": ["loss"],
      "held-out mIoU": ["validation_miou"],
      "held-out pixel accuracy": ["validation_pixel_accuracy"],
    },
    levels={
      "held-out mIoU": _best("miou", guessed),
      "held-out pixel accuracy": _best("pixel_accuracy", guessed),
    },
  )
  rows = {f"OASIS-C, {args.normalizations[0]}": measured} | {
    f"chance: {what}": scores for what, scores in guessed.items()
  }
  (here / "scores.json").write_text(json.dumps(rows, indent=2) + "\n")
  print(
    f"\n{len(photographs)} pictures, {np.count_nonzero(pixels)} of"
    f" {len(pixels)} classes, {pixels.sum():,} labelled pixels"
  )
  for what, scores in rows.items():
    print(
      f"{what:<28} mIoU {scores['miou']:.4f}"
      f"  pixel accuracy {scores['pixel_accuracy']:.4f}"
    )
  for name, found in runs.items():
    steps, values = found["validation_miou"]
    accuracies = found["validation_pixel_accuracy"][1]
    print(
      f"{name}: "
      + ", ".join(
        f"{step} {miou:.3f} / {accuracy:.3f}"
        for step, miou, accuracy in zip(steps, values, accuracies, strict=True)
      )
    )
  print(f"look at {here}")


if __name__ == "__main__":
  main()
