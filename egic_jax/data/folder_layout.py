"""Finds the pictures of a folder, their label maps, classes and splits."""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence

from absl import logging

IMAGE_SUFFIXES = frozenset(
  (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
)
# Label maps must be lossless.
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Entry:
  """One picture.

  Attributes:
    image: path of the picture.
    label: path of its label map, None if it has none.
    key: "<set>/<path inside the set, no suffix>", unique.
    split: "train" or "validation".
  """

  image: pathlib.Path
  label: pathlib.Path | None
  key: str
  split: str


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set of pictures with the classes of its label maps.

  Attributes:
    name: name of the folder.
    classes: {index on disk: class name}; empty when there are no label maps.
    entries: in order of their keys.
  """

  name: str
  classes: dict[int, str]
  entries: tuple[Entry, ...]


def scan(
  folder: str | os.PathLike,
  *,
  sets: Sequence[str] = (),
  exclude: Sequence[str] = (),
  validation_fraction: float = 0.05,
) -> tuple[ImageSet, ...]:
  """Lists a folder of photographs.

  Three layouts are understood:
    * a plain folder: every picture in it, at any depth;
    * a set: images/ and, if there are any, labels/ (same path and stem, 8-bit
      class indices, as large as the picture as displayed), classes.txt (lines
      of index<TAB>name), train.txt and val.txt (one path inside images/ per
      line, no suffix);
    * a collection: a folder whose sub-folders are sets. Sub-folders without
      images/ are left out, with a notice, as such folders tend to hold pictures
      kept for evaluation; name them in `sets` to train on them.

  Without train.txt and val.txt, the pictures with the smallest hashes of their
  names are for validation.

  Args:
    folder: where to look.
    sets: names of a collection's sub-folders to use; empty for all sets.
    exclude: names of a collection's sub-folders to leave out.
    validation_fraction: share of the pictures for validation, in [0, 1), where
      the set has no list of them.

  Returns:
    The sets, in order of their names, none of them empty.

  Raises:
    ValueError: the folder is missing or without pictures, a name in `sets` or
      `exclude` is no sub-folder, a picture is in both splits, or label maps
      come without class names.
  """
  root = pathlib.Path(folder).expanduser()
  if not root.is_dir():
    raise ValueError(
      f"folder = {str(folder)!r} is not a folder; give one with photographs"
    )
  if not 0.0 <= validation_fraction < 1.0:
    raise ValueError(
      f"validation_fraction = {validation_fraction} is not in [0, 1)"
    )
  # An absolute path, so that "." has a name too.
  root = pathlib.Path(os.path.abspath(root))
  subfolders = {
    path.name: path
    for path in sorted(root.iterdir())
    if path.is_dir() and not path.name.startswith(".")
  }
  is_set = (root / "images").is_dir()
  for argument, names in (("sets", sets), ("exclude", exclude)):
    for name in names:
      if is_set or name not in subfolders:
        raise ValueError(
          f"{argument} = {list(names)!r}: {str(folder)!r} has no set {name!r};"
          f" it has {', '.join(subfolders) if not is_set else 'only itself'}"
        )
  holders = [n for n, path in subfolders.items() if (path / "images").is_dir()]
  if sets or (holders and not is_set):
    chosen = [n for n in (sorted(set(sets)) or holders) if n not in exclude]
    left_out = [
      n
      for n in subfolders
      if n not in holders and n not in sets and n not in exclude
    ]
    if left_out:
      logging.info(
        "%s: left out (no images/ in them; name them in sets to use them): %s",
        folder, ", ".join(left_out),
      )  # fmt: skip
    paths = [subfolders[name] for name in chosen]
    skip = ()
  else:
    paths, skip = [root], tuple(exclude)
  found = [_scan_set(path, validation_fraction, skip) for path in paths]
  found = tuple(image_set for image_set in found if image_set.entries)
  if not found:
    raise ValueError(
      f"folder = {str(folder)!r} has no pictures; expected"
      f" {' '.join(sorted(IMAGE_SUFFIXES))} files, or sets with images/ in them"
    )
  return found


def fingerprint(sets: Sequence[ImageSet], extra: str = "") -> str:
  """A hash that changes with any file of the sets, with classes and splits.

  Files count by name, size and time of modification, not by content: a folder
  of a million pictures is listed in seconds but read in hours.

  Args:
    sets: what scan returned.
    extra: anything else that the hash is to depend on.

  Returns:
    16 hexadecimal digits.
  """
  digest = hashlib.sha256(extra.encode())
  for image_set in sets:
    header = [image_set.name, sorted(image_set.classes.items())]
    digest.update(json.dumps(header).encode())
    for entry in image_set.entries:
      row = [entry.key, entry.split]
      for path in (entry.image, entry.label):
        if path is not None:
          stat = path.stat()
          row += [path.name, stat.st_size, stat.st_mtime_ns]
      digest.update(json.dumps(row).encode())
  return digest.hexdigest()[:16]


def _scan_set(path, validation_fraction, skip):
  images = path / "images"
  plain = not images.is_dir()
  if plain:
    images = path
  pictures = {}
  for file in _pictures(images, skip):
    stem = file.relative_to(images).with_suffix("").as_posix()
    if stem in pictures:
      logging.warning(
        "%s and %s differ only in suffix; the first is used",
        pictures[stem], file,
      )  # fmt: skip
      continue
    pictures[stem] = file
  labels = {}
  if not plain and (path / "labels").is_dir():
    for stem in pictures:
      for suffix in LABEL_SUFFIXES:
        label = path / "labels" / (stem + suffix)
        if label.is_file():
          labels[stem] = label
          break
  classes = _read_classes(path / "classes.txt") if labels else {}
  splits = _splits(path, pictures, plain, validation_fraction)
  entries = tuple(
    Entry(
      image=pictures[stem],
      label=labels.get(stem),
      key=f"{path.name}/{stem}",
      split=splits[stem],
    )
    for stem in sorted(pictures)
    if stem in splits
  )
  return ImageSet(name=path.name, classes=classes, entries=entries)


def _pictures(folder, skip):
  for directory, names, files in os.walk(folder, followlinks=True):
    names[:] = sorted(
      name for name in names if not name.startswith(".") and name not in skip
    )
    for name in sorted(files):
      file = pathlib.Path(directory, name)
      if file.suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
        yield file


def _read_classes(path):
  """{index: name} of lines "index<TAB>name", or of bare names, from 0 on."""
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except FileNotFoundError:
    raise ValueError(
      f"{path.parent} has labels/ but no classes.txt; write one with a line"
      " index<TAB>name per class"
    ) from None
  classes = {}
  for number, line in enumerate(line for line in lines if line.strip()):
    index, tab, name = line.partition("\t")
    if not tab:
      index, name = str(number), line
    if not index.strip().isdigit() or int(index) > 255 or not name.strip():
      raise ValueError(
        f"{path}: {line!r} is not index<TAB>name with an index of 0..255"
      )
    classes[int(index)] = name.strip()
  return classes


def _splits(path, pictures, plain, validation_fraction):
  """{stem: split}; stems that neither list names are left out."""
  listed = {}
  for split, name in (("train", "train.txt"), ("validation", "val.txt")):
    file = path / name
    if not plain and file.is_file():
      stems = [line.strip() for line in file.read_text().splitlines()]
      listed[split] = {stem for stem in stems if stem}
  both = listed.get("train", set()) & listed.get("validation", set())
  if both:
    raise ValueError(
      f"{path}: {sorted(both)[0]!r} is in train.txt and in val.txt; a picture"
      " can be in one of them only"
    )
  if listed:
    # A list alone: all others are the other split.
    rest = None
    if len(listed) == 1:
      rest = "validation" if "train" in listed else "train"
    splits = {}
    for stem in pictures:
      named = [split for split, stems in listed.items() if stem in stems]
      if named or rest:
        splits[stem] = named[0] if named else rest
    missing = sum(len(stems - set(pictures)) for stems in listed.values())
    unlisted = len(pictures) - len(splits)
    if missing or unlisted:
      logging.info(
        "%s: %d listed pictures are not there, %d are in no list and left out",
        path, missing, unlisted,
      )  # fmt: skip
    return splits
  ranked = sorted(
    pictures, key=lambda stem: hashlib.sha256(stem.encode()).digest()
  )
  count = round(validation_fraction * len(ranked))
  if validation_fraction > 0 and len(ranked) > 1:
    count = min(max(count, 1), len(ranked) - 1)
  return {
    stem: "validation" if rank < count else "train"
    for rank, stem in enumerate(ranked)
  }
