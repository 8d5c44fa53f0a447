"""From files in COCO's format to batches, against what was painted."""

import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.object_detection import coco as tfds_coco
from tiny_coco import make

import egic_jax
from egic_jax.data import builders, coco_layout, datasets, pipeline
from egic_jax.data.builders import coco_panoptic

_SIDE = 200  # Longer side of most of the painted pictures.


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """A directory as the tiny COCO is downloaded."""
  directory = tmp_path_factory.mktemp("downloaded")
  make.write(directory, train=9, validation=3, longer_side=_SIDE)
  return directory


@pytest.fixture(scope="module")
def data_dir(files, tmp_path_factory):
  """A data_dir in which the tiny COCO is prepared."""
  folder = tmp_path_factory.mktemp("built")
  datasets.prepare_coco(folder, directory=files, allow_subset=True)
  return folder


@pytest.fixture
def coco(data_dir):
  return pipeline.DatasetSpec(name="coco", data_dir=str(data_dir))


def _copy(files, tmp_path):
  return pathlib.Path(shutil.copytree(files, tmp_path / "copy"))


def _prepare(directory, tmp_path, **options):
  options = {"allow_subset": True, **options}
  return datasets.prepare_coco(
    tmp_path / "data", directory=directory, **options
  )


def _truths(split, count):
  """{file name: painted picture}."""
  return {
    make.file_stem(split, index): make.picture_at(split, index, _SIDE)
    for index in range(count)
  }


def _stored(builder, split="train"):
  skip = tfds.decode.SkipDecoding()
  source = builder.as_data_source(
    split, decoders={"image": skip, "panoptic_image": skip}
  )
  return {
    record["image/filename"].decode().removesuffix(".jpg"): record
    for record in source
  }


def test_labels_and_weights_are_those_painted(coco):
  builder = pipeline.prepare(coco)
  for split, count in (("train", 9), ("validation", 3)):
    assert pipeline.num_records(coco, split) == count
    assert pipeline.num_records(coco, split, labelled_only=True) == count
    source = datasets.open_source(coco, split, with_weights=True)
    truths = _truths(split, count)
    names = list(_stored(builder, split))
    assert sorted(names) == sorted(truths)
    for name, element in zip(names, source, strict=True):
      truth = truths[name]
      np.testing.assert_array_equal(element["label"], truth.label)
      np.testing.assert_array_equal(element["weight"], truth.weight)
      # JPEG of high quality.
      difference = element["image"].astype(int) - truth.image
      assert np.abs(difference).mean() < 3
  # Every kind of segment was there.
  weights = {
    (int(label), int(weight))
    for truth in _truths("train", 9).values()
    for label, weight in zip(
      truth.label.ravel(), truth.weight.ravel(), strict=True
    )
  }
  names = ["void", *(entry["name"] for entry in make.CATEGORIES)]
  bus, truck, person, rock = map(
    names.index, ("bus", "truck", "person", "rock-merged")
  )
  assert {(0, 0), (bus, 1), (truck, 3), (person, 1), (rock, 1)} <= weights
  assert not {(bus, 3), (truck, 1), (person, 3), (rock, 3)} & weights


def test_tfds_module_is_left_as_it_was(coco):
  pipeline.prepare(coco)
  assert not isinstance(tfds_coco.tf, types.SimpleNamespace)


def test_classes_are_cocos_with_void_first(coco):
  names = pipeline.class_names(pipeline.prepare(coco))
  assert len(names) == 134
  assert names[0] == "void" and names[1] == "person"
  assert names[80] == "toothbrush" and names[133] == "rug-merged"


def test_original_bytes_are_kept(coco, files):
  stored = _stored(pipeline.prepare(coco))
  for name, record in stored.items():
    original = (files / "train2017" / f"{name}.jpg").read_bytes()
    assert record["image"] == original


def test_readable_by_tfds_alone(data_dir, monkeypatch):
  """The records are those of TFDS's own builder."""
  # All that it needs of TensorFlow.
  monkeypatch.setattr(tfds_coco, "tf", types.SimpleNamespace(int64=np.int64))
  source = tfds.data_source(
    "coco/2017_panoptic", split="validation", data_dir=data_dir
  )
  assert len(source) == 3
  truth = _truths("validation", 3)
  record = source[0]
  name = record["image/filename"].decode().removesuffix(".jpg")
  assert record["panoptic_image"].shape == (*truth[name].label.shape, 3)
  assert sorted(record["panoptic_objects"]["area"]) == sorted(
    segment["area"] for segment in truth[name].segments
  )


def test_batches_show_every_class_in_its_colour(coco):
  """Crops, scales, flips and padding move picture and maps alike."""
  iterator = pipeline.make_train_iterator(
    coco,
    global_batch_size=8,
    crop_size=160,
    scale_range=(0.5, 1.5),
    scale_step=0.1,
    padding="mean",
    max_side=_SIDE,
    enlarge=True,
    with_weights=True,
  )
  batches = [next(iterator) for _ in range(6)]
  image, label, weight = (
    np.concatenate([batch[name] for batch in batches])
    for name in ("image", "label", "weight")
  )
  assert image.shape == (48, 160, 160, 3) and image.dtype == np.uint8
  assert label.shape == weight.shape == (48, 160, 160)
  assert label.dtype == weight.dtype == np.uint8
  np.testing.assert_array_equal(weight == 0, label == 0)
  assert set(np.unique(weight)) == {0, 1, 3}
  padding = (image == (124, 116, 104)).all(-1)
  assert (label[padding] == 0).mean() > 0.99
  assert padding.mean() > 0.05
  found = np.unique(label[label > 0])
  assert len(found) >= 8
  for index in found:
    seen = np.median(image[label == index], axis=0)
    assert np.abs(seen - make.color_of(index)).max() < 16, index
  names = pipeline.class_names(pipeline.prepare(coco))
  assert set(np.unique(weight[label == names.index("truck")])) == {3}
  # Small in the crop, at scale 0.5, but not where it was annotated.
  assert set(np.unique(weight[label == names.index("bus")])) == {1}


def test_weights_do_not_change_the_rest(coco):
  options = {"global_batch_size": 4, "crop_size": 64, "seed": 3}
  with_both = next(
    pipeline.make_train_iterator(coco, with_weights=True, **options)
  )
  labels = next(pipeline.make_train_iterator(coco, **options))
  weights = next(
    pipeline.make_train_iterator(
      coco, with_labels=False, with_weights=True, **options
    )
  )
  assert set(labels) == {"image", "label"}
  assert set(weights) == {"image", "weight"}
  for batch in (labels, weights):
    for name, array in batch.items():
      np.testing.assert_array_equal(array, with_both[name])


def test_pictures_are_enlarged_only_on_request(coco):
  """The smallest pictures have a longer side of 7/8."""
  options = {
    "split": "train",
    "global_batch_size": 9,
    "crop_size": _SIDE + 40,
    "max_side": _SIDE,
    "padding": "mean",
  }
  (plain,) = pipeline.make_eval_batches(coco, **options)
  (enlarged,) = pipeline.make_eval_batches(coco, enlarge=True, **options)

  def longer_sides(batch):
    # Void inside of pictures has another colour.
    inside = ~(batch["image"] == (124, 116, 104)).all(-1)
    rows, columns = inside.any(2).sum(1), inside.any(1).sum(1)
    return sorted(np.maximum(rows, columns).tolist())

  assert longer_sides(plain) == [_SIDE * 7 // 8] * 3 + [_SIDE] * 6
  assert longer_sides(enlarged) == [_SIDE] * 9


def test_evaluation_batches_have_weights(coco):
  (batch,) = pipeline.make_eval_batches(
    coco, global_batch_size=4, crop_size=100, with_weights=True
  )
  assert set(batch) == {"image", "label", "weight", "valid"}
  assert batch["valid"].tolist() == [True, True, True, False]
  np.testing.assert_array_equal(batch["weight"] == 0, batch["label"] == 0)
  assert (batch["weight"] == 3).any()


def test_datasets_without_instances_weigh_all_labels_alike(tmp_path):
  scenes = pipeline.DatasetSpec(config="tiny", data_dir=str(tmp_path))
  batch = next(
    pipeline.make_train_iterator(
      scenes, global_batch_size=4, crop_size=120, with_weights=True
    )
  )
  np.testing.assert_array_equal(batch["weight"], batch["label"] != 0)
  assert set(np.unique(batch["weight"])) == {0, 1}


def test_identity_counts_new_options_only_when_used(coco, monkeypatch):
  base = {"global_batch_size": 4, "max_side": _SIDE}
  changes = [{}, {"enlarge": True}, {"color_policy": "simple_classification"}]
  identities = [
    pipeline.dataset_identity(coco, **base, **change) for change in changes
  ]
  assert len(set(identities)) == 3
  assert identities[0] == pipeline.dataset_identity(
    coco, enlarge=False, color_policy="", **base
  )
  assert identities[0].startswith("coco/train:9:")
  # Runs from before there were these options find their identity again.
  contents = []
  dumps = json.dumps
  monkeypatch.setattr(
    pipeline.json,
    "dumps",
    lambda content, **options: (
      contents.append(content) or dumps(content, **options)
    ),
  )
  pipeline.dataset_identity(coco, **base)
  assert not {"enlarge", "color_policy"} & contents[0].keys()


def _plain(record):
  """A record that compares by ==."""
  table = record["panoptic_objects"]
  return {
    **record,
    "panoptic_objects": {k: np.asarray(v).tolist() for k, v in table.items()},
  }


def _pack(folder, archive, name):
  """Makes `archive` of `folder`, as `name`/ inside, and removes the folder."""
  with zipfile.ZipFile(archive, "w") as file:
    for path in sorted(folder.rglob("*")):
      file.write(path, f"{name}/{path.relative_to(folder)}")
  shutil.rmtree(folder)


@pytest.mark.parametrize("layout", ["archives", "folders", "nested"])
def test_every_layout_gives_the_same_records(files, coco, tmp_path, layout):
  copy = _copy(files, tmp_path)
  annotations = copy / "annotations"
  if layout == "folders":
    for name in ("panoptic_train2017", "panoptic_val2017"):
      with zipfile.ZipFile(annotations / f"{name}.zip") as archive:
        archive.extractall(annotations)
      (annotations / f"{name}.zip").unlink()
    (copy / "images").mkdir()
    for name in ("train2017", "val2017"):
      (copy / name).rename(copy / "images" / name)
  else:
    for name in ("train2017", "val2017"):
      _pack(copy / name, copy / f"{name}.zip", name)
  if layout == "nested":
    _pack(
      annotations,
      copy / "panoptic_annotations_trainval2017.zip",
      "annotations",
    )
  expected = pipeline.prepare(coco)
  builder = _prepare(copy, tmp_path)
  for split in ("train", "validation"):
    found, wanted = _stored(builder, split), _stored(expected, split)
    assert found.keys() == wanted.keys()
    for name, record in found.items():
      assert _plain(record) == _plain(wanted[name])
  # Nothing unpacked is left behind.
  left = [p.name for p in (tmp_path / "data" / "coco").rglob("annotations_*")]
  assert not left


def test_counts_are_checked_before_and_after(files, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"9 of 118,287 \.jpg files"):
    _prepare(files, tmp_path, allow_subset=False)
  # Enough files, but the annotations list fewer.
  copy = _copy(files, tmp_path)
  path = copy / "annotations" / "panoptic_train2017.json"
  document = json.loads(path.read_text())
  document["images"].pop()
  path.write_text(json.dumps(document))
  monkeypatch.setattr(coco_layout, "COUNTS", {"train": 9, "validation": 3})
  with pytest.raises(ValueError, match="lists 8 pictures, COCO 2017 has 9"):
    _prepare(copy, tmp_path, allow_subset=False)
  # What was refused has not appeared.
  assert not (tmp_path / "data" / "coco" / "2017_panoptic" / "1.1.0").exists()
  builder = _prepare(files, tmp_path, allow_subset=False)
  assert pipeline.num_records(builder) == 9


def test_prepared_subset_is_not_taken_for_all(files, data_dir):
  with pytest.raises(ValueError, match="9 pictures in split 'train'"):
    datasets.prepare_coco(data_dir, directory=files)


def _truncate(copy):
  path = sorted((copy / "train2017").iterdir())[3]
  path.write_bytes(path.read_bytes()[:-900])


def _truncate_mask(copy):
  source = copy / "annotations" / "panoptic_train2017.zip"
  with zipfile.ZipFile(source) as archive:
    content = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(source, "w") as archive:
    for number, (name, data) in enumerate(content.items()):
      archive.writestr(name, data[:-60] if number == 2 else data)


def _resize(copy):
  path = sorted((copy / "val2017").iterdir())[0]
  Image.new("RGB", (50, 50)).save(path)


def _damage_archive(copy):
  path = copy / "annotations" / "panoptic_val2017.zip"
  path.write_bytes(path.read_bytes()[:1000])


def _other_classes(copy):
  for path in (copy / "annotations").glob("*.json"):
    document = json.loads(path.read_text())
    document["categories"].reverse()
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (_truncate, r"000000000120\.jpg: unreadable"),
    (_truncate_mask, r"000000000083\.png: unreadable"),
    (_resize, r"a picture of \(50, 50\)"),
    (_damage_archive, r"panoptic_val2017\.zip: .*download it again"),
    (_other_classes, "not 'person'"),
    (
      lambda copy: sorted((copy / "train2017").iterdir())[0].unlink(),
      r"cannot read .*000000000009\.jpg: No such file",
    ),
    (lambda copy: shutil.rmtree(copy / "val2017"), r"neither val2017/"),
    (
      lambda copy: (copy / "annotations" / "panoptic_val2017.json").unlink(),
      r"no panoptic_val2017\.json",
    ),
    (
      lambda copy: shutil.rmtree(copy / "annotations"),
      "no panoptic annotations",
    ),
    (shutil.rmtree, "is not a directory"),
  ],
)
def test_damage_is_told_in_one_line(files, tmp_path, damage, message):
  copy = _copy(files, tmp_path)
  damage(copy)
  with pytest.raises(ValueError, match=message) as caught:
    _prepare(copy, tmp_path)
  assert "\n" not in str(caught.value)
  left = [
    name
    for _, _, names in os.walk(tmp_path / "data")
    for name in names
    if "array_record" in name
  ]
  assert not left


def test_progress_shows_in_a_log_too(files, tmp_path, monkeypatch, capsys):
  """Where nobody watches: nothing at once, a line of counts after a while."""
  _prepare(files, tmp_path)
  assert "image/s" not in capsys.readouterr().err
  monkeypatch.setattr(coco_panoptic, "_LOG_SECONDS", 1e-6)
  _prepare(files, tmp_path / "again")
  assert "9image" in capsys.readouterr().err.replace(" ", "")


def test_elements_can_be_read_by_another_process(coco):
  source = datasets.open_source(coco, "train", with_weights=True)
  copy = pickle.loads(pickle.dumps(source))
  assert len(copy) == len(source) == 9
  for name, array in source[3].items():
    np.testing.assert_array_equal(copy[3][name], array)


def test_training_does_not_start_a_download(tmp_path):
  spec = pipeline.DatasetSpec(name="coco", data_dir=str(tmp_path))
  with pytest.raises(ValueError, match="egic prepare-coco --data-dir"):
    pipeline.prepare(spec)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ({"folder": "x"}, "folder = 'x'"),
    ({"config": "2014"}, "config = '2014'"),
  ],
)
def test_bad_specifications_are_named(spec, message, data_dir):
  with pytest.raises(ValueError, match=message):
    pipeline.prepare(
      pipeline.DatasetSpec(name="coco", data_dir=str(data_dir), **spec)
    )


def test_enlarge_needs_a_size(coco):
  with pytest.raises(ValueError, match="enlarge needs max_side"):
    pipeline.make_train_iterator(coco, global_batch_size=1, enlarge=True)


def test_tfrecord_is_refused(data_dir, tmp_path):
  """What TFDS prepares by default cannot be read without TensorFlow."""
  copy = shutil.copytree(data_dir / "coco", tmp_path / "coco")
  version = pathlib.Path(copy, "2017_panoptic", "1.1.0")
  info = version / "dataset_info.json"
  document = json.loads(info.read_text().replace("array_record", "tfrecord"))
  info.write_text(json.dumps(document))
  for path in version.glob("*.array_record*"):
    path.rename(str(path).replace("array_record", "tfrecord"))
  spec = pipeline.DatasetSpec(name="coco", data_dir=str(tmp_path))
  with pytest.raises(ValueError, match="tfrecord format") as caught:
    pipeline.prepare(spec)
  assert "\n" not in str(caught.value)


def test_tfds_route_takes_what_its_download_manager_gives(
  files, tmp_path, monkeypatch
):
  """Without a directory, TFDS's own _split_generators finds the files."""
  unpacked = _copy(files, tmp_path)

  class Manager:
    downloaded_size = 0

    def download_and_extract(self, urls):
      assert all("images.cocodataset.org" in url for url in urls.values())
      return {name: str(unpacked) for name in urls}

    def extract(self, path):
      target = tmp_path / "extracted" / pathlib.Path(path).stem
      with zipfile.ZipFile(path) as archive:
        archive.extractall(target)
      return str(target)

  monkeypatch.setattr(
    builders.CocoPanoptic, "_make_download_manager", lambda *_, **__: Manager()
  )
  builder = _prepare(None, tmp_path)
  source = datasets.open_source(builder, "train", with_weights=True)
  truths = _truths("train", 9)
  for name, element in zip(_stored(builder), source, strict=True):
    np.testing.assert_array_equal(element["label"], truths[name].label)
    np.testing.assert_array_equal(element["weight"], truths[name].weight)


def test_no_tensorflow(files, tmp_path):
  """The command, and a batch, in a process of their own."""
  program = f"""
import sys
from egic_jax.cli import main
from egic_jax.data import pipeline
assert main.main(["prepare-coco", "--from", {str(files)!r}, "--data-dir",
                  {str(tmp_path)!r}, "--allow-subset"]) == 0
spec = pipeline.DatasetSpec(name="coco", data_dir={str(tmp_path)!r})
next(pipeline.make_train_iterator(
  spec, global_batch_size=2, crop_size=32, with_weights=True))
roots = {{name.split(".")[0] for name in sys.modules}}
print(sorted(roots & {{"tensorflow", "torch", "cv2"}}))
"""
  root = pathlib.Path(egic_jax.__file__).parents[1]
  done = subprocess.run(
    [sys.executable, "-c", program],
    env={**os.environ, "PYTHONPATH": str(root)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.splitlines()[-1] == "[]"
