"""Finds COCO 2017 and its panoptic annotations in a downloaded directory."""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
import zipfile

# {split: name of its pictures in COCO}, and how many there are.
SPLITS = {"train": "train2017", "validation": "val2017"}
COUNTS = {"train": 118_287, "validation": 5_000}
_ANNOTATIONS = "panoptic_annotations_trainval2017"
_EXPECTED = (
  "expected train2017 and val2017 (folders or .zip, here or in images/), and"
  f" annotations/ with panoptic_train2017.json and .zip, or {_ANNOTATIONS}.zip"
)


@dataclasses.dataclass(frozen=True)
class SplitFiles:
  """Where the files of one split are.

  Attributes:
    pictures: folder of pictures, or "X.zip/<folder inside>".
    annotation: the JSON file.
    masks: folder of panoptic maps, or "X.zip/<folder inside>".
  """

  pictures: pathlib.Path
  annotation: pathlib.Path
  masks: pathlib.Path


class Files:
  """The files of a folder, which may be the folder of a zip archive."""

  def __init__(self, folder: pathlib.Path):
    """Opens it.

    Args:
      folder: a folder, or "<archive>.zip/<folder inside>".

    Raises:
      ValueError: the archive is damaged.
    """
    self._folder = folder
    self._archive = None
    if folder.parent.is_file():
      try:
        self._archive = zipfile.ZipFile(folder.parent)
      except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(
          f"{folder.parent}: {error}; download it again"
        ) from None

  def __enter__(self) -> "Files":
    return self

  def __exit__(self, *_) -> None:
    if self._archive is not None:
      self._archive.close()

  def count(self, suffix: str) -> int:
    """How many files directly in it end in `suffix`."""
    if self._archive is None:
      with os.scandir(self._folder) as entries:
        return sum(entry.name.endswith(suffix) for entry in entries)
    start = f"{self._folder.name}/"
    return sum(
      name.startswith(start) and name.endswith(suffix)
      for name in self._archive.namelist()
    )

  def read(self, name: str) -> bytes:
    """The content of a file; several threads may read.

    Raises:
      ValueError: it is not there, or cannot be read.
    """
    try:
      if self._archive is None:
        return (self._folder / name).read_bytes()
      return self._archive.read(f"{self._folder.name}/{name}")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
      reason = getattr(error, "strerror", None) or error
      raise ValueError(
        f"cannot read {self._folder / name}: {reason}; download it again"
      ) from None


@contextlib.contextmanager
def find(directory: str | os.PathLike, scratch: str | os.PathLike):
  """Locates everything; a context manager.

  Pictures and panoptic maps are read out of their archives where they are not
  unpacked. Only the annotations' archive, an archive of archives, is unpacked.

  Args:
    directory: where the downloaded files are.
    scratch: an existing folder that may hold unpacked annotations (about 2 GB)
      until the context ends.

  Yields:
    {split: SplitFiles} for "train" and "validation".

  Raises:
    ValueError: something is missing or damaged; one line.
  """
  root = pathlib.Path(directory).expanduser()
  if not root.is_dir():
    raise ValueError(f"{directory} is not a directory; {_EXPECTED}")
  with contextlib.ExitStack() as stack:
    folder = _unpacked_annotations(root)
    if folder is None:
      folder = pathlib.Path(
        stack.enter_context(
          tempfile.TemporaryDirectory(prefix="annotations_", dir=scratch)
        )
      )
      _unpack_annotations(root, folder)
      folder = folder / "annotations"
    yield {
      split: SplitFiles(
        pictures=_folder_or_archive(root, name, ("", "images", "zips")),
        annotation=_file(folder, f"panoptic_{name}.json"),
        masks=_folder_or_archive(folder, f"panoptic_{name}", ("", "..")),
      )
      for split, name in SPLITS.items()
    }


def _unpacked_annotations(root):
  for parent in ("", _ANNOTATIONS):
    folder = root / parent / "annotations"
    if (folder / f"panoptic_{SPLITS['train']}.json").is_file():
      return folder
  return None


def _unpack_annotations(root, target):
  for parent in ("", "annotations", "zips"):
    archive = root / parent / f"{_ANNOTATIONS}.zip"
    if archive.is_file():
      try:
        with zipfile.ZipFile(archive) as file:
          file.extractall(
            target,
            [n for n in file.namelist() if n.startswith("annotations/")],
          )
      except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{archive}: {error}; download it again") from None
      return
  raise ValueError(f"{root} has no panoptic annotations; {_EXPECTED}")


def _file(folder, name):
  if not (folder / name).is_file():
    raise ValueError(f"{folder} has no {name}; {_EXPECTED}")
  return folder / name


def _folder_or_archive(root, name, parents):
  for parent in parents:
    folder = root / parent / name
    if folder.is_dir():
      return folder
    archive = folder.with_name(f"{name}.zip")
    if archive.is_file():
      return archive / name
  raise ValueError(f"{root} has neither {name}/ nor {name}.zip; {_EXPECTED}")
