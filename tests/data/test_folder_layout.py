import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from egic_jax.data import folder_layout


def _picture(path):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path)


def _keys(sets, split=None):
  return [
    entry.key
    for image_set in sets
    for entry in image_set.entries
    if split in (None, entry.split)
  ]


def test_plain_folder_at_any_depth(tmp_path):
  root = tmp_path / "photos"
  for name in ("a.PNG", "deep/er/b.bmp", "c.tif", ".hidden/d.png", ".e.png"):
    _picture(root / name)
  (root / "notes.txt").write_text("no picture")
  (found,) = folder_layout.scan(root)
  assert found.name == "photos"
  assert _keys([found]) == ["photos/a", "photos/c", "photos/deep/er/b"]
  assert len(_keys([found], "validation")) == 1
  assert all(entry.label is None for entry in found.entries)


def test_validation_fraction_is_stable(tmp_path):
  for index in range(40):
    _picture(tmp_path / f"{index}.png")
  first = _keys(folder_layout.scan(tmp_path, validation_fraction=0.25))
  split = folder_layout.scan(tmp_path, validation_fraction=0.25)
  assert len(first) == 40
  assert len(_keys(split, "validation")) == 10
  assert set(_keys(split, "validation")) >= set(
    _keys(folder_layout.scan(tmp_path, validation_fraction=0.1), "validation")
  )
  none = folder_layout.scan(tmp_path, validation_fraction=0.0)
  assert not _keys(none, "validation")


def _set(root, stems=("x", "y", "z")):
  for stem in stems:
    _picture(root / "images" / f"{stem}.png")
  return root


def test_set_with_lists_labels_and_classes(tmp_path):
  root = _set(tmp_path / "s")
  _picture(root / "labels" / "x.png")
  (root / "classes.txt").write_text("3\tsky\n7\troad\n")
  (root / "train.txt").write_text("x\nmissing\n")
  (root / "val.txt").write_text("y\n")
  (found,) = folder_layout.scan(root)
  assert found.classes == {3: "sky", 7: "road"}
  assert _keys([found], "train") == ["s/x"]
  assert _keys([found], "validation") == ["s/y"]  # z is in no list
  assert found.entries[0].label.name == "x.png"
  assert found.entries[1].label is None


def test_bare_class_names_count_from_zero(tmp_path):
  root = _set(tmp_path / "s")
  _picture(root / "labels" / "x.png")
  (root / "classes.txt").write_text("sky\n\nroad\n")
  assert folder_layout.scan(root)[0].classes == {0: "sky", 1: "road"}


def test_one_list_alone_leaves_the_rest_to_the_other_split(tmp_path):
  root = _set(tmp_path / "s")
  (root / "val.txt").write_text("y\n")
  found = folder_layout.scan(root)
  assert _keys(found, "train") == ["s/x", "s/z"]


def test_collection_leaves_out_folders_without_images(tmp_path):
  _set(tmp_path / "one")
  _set(tmp_path / "two")
  _picture(tmp_path / "kodak" / "k.png")
  names = lambda **kw: [s.name for s in folder_layout.scan(tmp_path, **kw)]  # noqa: E731
  assert names() == ["one", "two"]
  assert names(exclude=["two"]) == ["one"]
  assert names(sets=["two", "kodak"]) == ["kodak", "two"]


@pytest.mark.parametrize(
  ("make", "arguments", "message"),
  [
    (lambda root: None, {}, "has no pictures"),
    (lambda root: root.rmdir(), {}, "is not a folder"),
    (lambda root: _set(root / "one"), {"sets": ["two"]}, "no set 'two'"),
    (lambda root: _set(root / "one"), {"exclude": ["t"]}, "no set 't'"),
    (lambda root: _set(root), {"validation_fraction": 1.0}, "is not in"),
  ],
)
def test_mistakes_are_one_line(tmp_path, make, arguments, message):
  root = tmp_path / "root"
  root.mkdir()
  make(root)
  with pytest.raises(ValueError, match=message) as caught:
    folder_layout.scan(root, **arguments)
  assert "\n" not in str(caught.value)


def test_a_picture_in_both_lists_is_refused(tmp_path):
  root = _set(tmp_path / "s")
  (root / "train.txt").write_text("x\ny\n")
  (root / "val.txt").write_text("y\n")
  with pytest.raises(ValueError, match="'y' is in train.txt and in val.txt"):
    folder_layout.scan(root)


def test_labels_need_classes(tmp_path):
  root = _set(tmp_path / "s")
  _picture(root / "labels" / "x.png")
  with pytest.raises(ValueError, match=r"no classes\.txt"):
    folder_layout.scan(root)
  (root / "classes.txt").write_text("300\tsky\n")
  with pytest.raises(ValueError, match="300"):
    folder_layout.scan(root)


def test_fingerprint_follows_the_files(tmp_path):
  root = _set(tmp_path / "s")
  mark = lambda: folder_layout.fingerprint(folder_layout.scan(root))  # noqa: E731
  before = mark()
  assert mark() == before
  os.utime(root / "images" / "x.png", (1, 1))
  touched = mark()
  assert touched != before
  _picture(root / "images" / "w.png")
  assert mark() not in (before, touched)
  assert folder_layout.fingerprint(folder_layout.scan(root), "t") != mark()


def test_relative_folder_has_a_name(tmp_path, monkeypatch):
  _picture(tmp_path / "here" / "a.png")
  monkeypatch.chdir(tmp_path / "here")
  assert folder_layout.scan(pathlib.Path("."))[0].name == "here"
