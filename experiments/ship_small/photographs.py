"""The folder that travels: photographs, merged label maps, code.

Pictures are copied as they are; label maps are written anew, with the classes
that the project merges all sets to. Everything is one file, so that a thousand
small ones need not be copied; the code beside it runs without installation.
"""

import concurrent.futures
import hashlib
import io
import json
import pathlib
import shutil
import zipfile
from collections.abc import Sequence

import numpy as np
import plan
from PIL import Image

from egic_jax import atomic_files, images
from egic_jax.data import folder_layout, taxonomy

ARCHIVE = "photographs.zip"
CODE = "code"
_INDEX = "index.json"
_MIB = 1 << 20
# What the machine that trains takes, less what else travels with it.
DEFAULT_LIMIT_MIB = 50
# Pictures to measure on, never trained on.
_NUM_VALIDATION = 24

Pictures = list[tuple[np.ndarray, np.ndarray | None]]


def pack(
  photographs: pathlib.Path,
  target: pathlib.Path,
  *,
  names: Sequence[str] | None = None,
  limit_mib: float = DEFAULT_LIMIT_MIB,
  part: int = 0,
) -> str:
  """Writes a folder with as many photographs as fit, and the code.

  They are taken in the order of the hashes of their names, so that each part is
  a fair sample of all sets.

  Args:
    photographs: a collection, see `folder_layout.scan`.
    target: the folder; what an earlier call left there is replaced.
    names: paths inside *photographs* to choose from; None for all.
    limit_mib: the largest size of the folder.
    part: which of the parts that all pictures make at this size, from 0 on.

  Returns:
    A line for the user.

  Raises:
    ValueError: there are no pictures, or none left for this part.
  """
  code = _copy_code(target / CODE)
  room = int(limit_mib * _MIB) - code - 64 * 1024
  sets = folder_layout.scan(photographs)
  classes, tables = taxonomy.load(plan.TAXONOMY).merge(
    {image_set.name: image_set.classes for image_set in sets}
  )
  entries = [
    (image_set.name, entry)
    for image_set in sets
    for entry in image_set.entries
    if _is_named(entry, photographs, names)
  ]
  entries.sort(key=lambda pair: hashlib.sha256(pair[1].key.encode()).digest())
  chosen = _measured_on(entries)
  room -= sum(_size(entry) for _, entry in chosen)
  parts = _parts([e for e in entries if e[1].split == "train"], room)
  if part >= len(parts):
    raise ValueError(
      f"--part={part}: {len(entries)} pictures make {len(parts)} parts of"
      f" {limit_mib:g} MiB, numbered from 0"
    )
  chosen += parts[part]
  index = {"classes": classes, "pictures": []}
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as archive:
    for set_name, entry in chosen:
      row = {"key": entry.key, "split": entry.split, "label": None}
      row["image"] = f"{len(index['pictures']):05d}{entry.image.suffix.lower()}"
      archive.writestr(row["image"], entry.image.read_bytes())
      if entry.label is not None:
        row["label"] = f"{row['image'][:5]}.png"
        label = tables[set_name][np.asarray(Image.open(entry.label))]
        archive.writestr(row["label"], _png(label))
      index["pictures"].append(row)
    archive.writestr(_INDEX, json.dumps(index))
  target.mkdir(parents=True, exist_ok=True)
  atomic_files.write_bytes(target / ARCHIVE, content.getvalue())
  size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
  if size > limit_mib * _MIB:
    raise ValueError(
      f"{target} has {size / _MIB:.1f} MiB, more than --mib={limit_mib:g};"
      " remove what else is in it"
    )
  labelled = sum(row["label"] is not None for row in index["pictures"])
  return (
    f"{target}: part {part} of {len(parts)}, {len(chosen)} photographs,"
    f" {labelled} with a label map, {size / _MIB:.1f} MiB with the code"
  )


def _is_named(entry, photographs, names):
  if names is None:
    return True
  return entry.image.relative_to(photographs.absolute()).as_posix() in names


def _measured_on(entries):
  """Half of them with a label map, for the stages that need one."""
  validation = [pair for pair in entries if pair[1].split == "validation"]
  labelled = [pair for pair in validation if pair[1].label is not None]
  first = labelled[: _NUM_VALIDATION // 2]
  rest = [pair for pair in validation if pair not in first]
  return first + rest[: _NUM_VALIDATION - len(first)]


def _parts(entries, room):
  """Runs of entries, each of at most *room* bytes."""
  parts, left = [], 0
  for pair in entries:
    size = _size(pair[1])
    if not parts or size > left:
      parts.append([])
      left = room
    parts[-1].append(pair)
    left -= size
  return parts


def _size(entry):
  """Bytes in the archive; label maps shrink as classes are merged."""
  paths = [entry.image] + ([entry.label] if entry.label else [])
  return sum(path.stat().st_size + 256 for path in paths)


def _png(label):
  buffer = io.BytesIO()
  Image.fromarray(label).save(buffer, "PNG", optimize=True)
  return buffer.getvalue()


def _copy_code(target):
  """Copies the package's and this folder's sources; their bytes."""
  root = pathlib.Path(__file__).resolve().parents[2]
  here = pathlib.Path(__file__).resolve().parent
  if target.exists():
    shutil.rmtree(target)
  total = 0
  for folder in (root / "egic_jax", here):
    for path in sorted(folder.rglob("*.py")):
      copy = target / path.relative_to(root)
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(path, copy)
      total += path.stat().st_size
  return total


def read(
  folders: Sequence[pathlib.Path], *, threads: int = 16
) -> tuple[tuple[str, ...], dict[str, Pictures], str]:
  """Decodes what one or several folders have.

  Args:
    folders: as `pack` wrote them, with the same classes.
    threads: that decode.

  Returns:
    ("void", class 1, ...); {"train": pictures, "validation": pictures}, image
    (H, W, 3) uint8 and label (H, W) uint8 or None; and a text that is another
    for other pictures.

  Raises:
    ValueError: a folder has no photographs, or others classes.
  """
  classes, found, digest = None, {}, hashlib.sha256()
  for folder in folders:
    path = pathlib.Path(folder) / ARCHIVE
    try:
      archive = zipfile.ZipFile(path)
      index = json.loads(archive.read(_INDEX))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
      raise ValueError(f"{path}: not written by pack ({error})") from None
    if classes not in (None, index["classes"]):
      raise ValueError(f"{path}: has other classes than {folders[0]}")
    classes = index["classes"]
    for row in index["pictures"]:
      files = {
        name: archive.read(row[name])
        for name in ("image", "label")
        if row[name]
      }
      # A picture to measure on is in every part.
      found[row["key"]] = (row["split"], files)
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    decoded = list(pool.map(_decode, [files for _, files in found.values()]))
  pictures = {"train": [], "validation": []}
  for (key, (split, _)), pair in zip(found.items(), decoded, strict=True):
    pictures[split].append(pair)
    digest.update(f"{key} {pair[0].shape}\n".encode())
  return tuple(classes), pictures, digest.hexdigest()[:16]


def _decode(files):
  label = None
  if "label" in files:
    label = np.asarray(Image.open(io.BytesIO(files["label"])))
  return images.read(files["image"]), label
