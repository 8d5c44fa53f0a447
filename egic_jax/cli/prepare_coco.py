"""`egic prepare-coco`: COCO 2017 with panoptic annotations, for training."""

import argparse
import logging
from collections.abc import Sequence


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic prepare-coco",
    description="Prepare COCO 2017 with panoptic annotations (TFDS's"
    " coco/2017_panoptic, without TensorFlow): every picture is looked at, and"
    " an incomplete dataset is refused. About 21 GB; as much again to download"
    " it.",
    epilog="Then train with data.name=coco data.data_dir=DIR.",
  )
  parser.add_argument(
    "--data-dir",
    required=True,
    metavar="DIR",
    help="where prepared datasets are kept; the data.data_dir of training",
  )
  parser.add_argument(
    "--from",
    dest="directory",
    metavar="DIRECTORY",
    help="take what is already downloaded, instead of downloading: train2017"
    " and val2017 (folders or .zip), annotations (the folder, with its inner"
    " .zip files or folders, or panoptic_annotations_trainval2017.zip)",
  )
  parser.add_argument(
    "--allow-subset",
    action="store_true",
    help="accept other numbers of pictures than 118,287 for training and 5,000"
    " for validation",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  # A failed download ends in an error that says it all.
  logging.getLogger("urllib3").setLevel(logging.ERROR)

  from egic_jax.data import datasets

  builder = datasets.prepare_coco(
    args.data_dir, directory=args.directory, allow_subset=args.allow_subset
  )
  counts = ", ".join(
    f"{datasets.num_records(builder, split):,} {split}"
    for split in builder.info.splits
  )
  size = sum(info.num_bytes for info in builder.info.splits.values())
  print(
    f"{builder.data_path}: {counts} pictures,"
    f" {len(datasets.class_names(builder)) - 1} classes,"
    f" {size / 1e9:.1f} GB"
  )
  return 0
