"""What travels: which pictures, which labels, how much."""

import subprocess
import sys

import numpy as np
import photographs
import pytest
from PIL import Image

from egic_jax.data import taxonomy


def test_pictures_and_merged_labels_come_back(pack, folder):
  classes, pictures, identity = photographs.read([pack])
  assert classes == ("void", *taxonomy.PHOTOGRAPHS.classes)
  # All but val.txt; never the folder for evaluation.
  assert [len(pictures[s]) for s in ("train", "validation")] == [10, 4]
  paths = sorted((folder / "camvid" / "images").iterdir())
  known = {np.asarray(Image.open(path)).tobytes(): path for path in paths}
  labelled = 0
  for image, label in pictures["train"] + pictures["validation"]:
    if label is None:
      continue
    labelled += 1
    path = known[image.tobytes()]
    disk = np.asarray(Image.open(folder / "camvid/labels" / f"{path.stem}.png"))
    merged = np.array([classes.index(x) for x in ("person", "bicycle", "sky")])
    np.testing.assert_array_equal(label == merged[0], disk == 9)
    np.testing.assert_array_equal(label == merged[1], disk == 10)
    np.testing.assert_array_equal(label == merged[2], disk == 0)
    assert label[0, 0] == 0
  assert labelled == 8
  assert photographs.read([pack, pack])[2] == identity


def test_parts_have_the_size_asked_for(folder, tmp_path):
  code = photographs._copy_code(tmp_path / "code")
  limit = (code + 64 * 1024 + 80_000) / 2**20
  keys, number = [], 0
  while True:
    target = tmp_path / str(number)
    try:
      photographs.pack(folder, target, limit_mib=limit, part=number)
    except ValueError as error:
      assert f"parts of {limit:g} MiB" in str(error)
      break
    files = [path for path in target.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= limit * 2**20
    _, pictures, _ = photographs.read([target])
    keys += [image.tobytes() for image, _ in pictures["train"]]
    number += 1
  assert number > 1
  assert len(keys) == len(set(keys)) == 10
  _, pictures, _ = photographs.read([tmp_path / str(i) for i in range(number)])
  assert {image.tobytes() for image, _ in pictures["train"]} == set(keys)


def test_a_list_chooses(folder, tmp_path):
  names = frozenset(["others/images/3.webp", "camvid/images/0.webp"])
  photographs.pack(folder, tmp_path, names=names)
  _, pictures, _ = photographs.read([tmp_path])
  assert [len(pictures[s]) for s in ("train", "validation")] == [1, 1]
  with pytest.raises(ValueError, match="not written by pack"):
    photographs.read([folder])


def test_the_code_that_travels_needs_no_data_libraries(pack):
  code = pack / photographs.CODE
  absent = "grain tensorflow_datasets ml_collections clu tensorboardX orbax"
  script = (
    "import sys; sys.path[:0] = sys.argv[1:]\n"
    f"for name in {absent.split()}: sys.modules[name] = None\n"
    "import recipe, slices, bench\n"
    "print(slices.panels.__file__)"
  )
  paths = [str(code), str(code / "experiments" / "ship_small")]
  done = subprocess.run(
    [sys.executable, "-c", script, *paths],
    capture_output=True,
    text=True,
    cwd=pack,
    env={"JAX_PLATFORMS": "cpu", "HOME": str(pack)},
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.startswith(str(code))
