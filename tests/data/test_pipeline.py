import itertools
import os
import pathlib
import subprocess
import sys

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import egic_jax
from egic_jax.data import builders, datasets, pipeline


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  """The prepared builder of synthetic_scenes/tiny."""
  return pipeline.prepare(
    pipeline.DatasetSpec(
      config="tiny", data_dir=str(tmp_path_factory.mktemp("built"))
    )
  )


def _take(dataset, number, **options):
  options = {"global_batch_size": 4, "crop_size": 32, **options}
  iterator = pipeline.make_train_iterator(dataset, **options)
  return [next(iterator) for _ in range(number)]


def _equal(first, second):
  return all(
    a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    for a, b in zip(first, second, strict=True)
  )


def test_batches(scenes):
  (batch,) = _take(scenes, 1)
  assert batch["image"].shape == (4, 32, 32, 3)
  assert batch["label"].shape == (4, 32, 32)
  assert batch["image"].dtype == batch["label"].dtype == np.uint8
  (bare,) = _take(scenes, 1, with_labels=False)
  assert set(bare) == {"image"}
  np.testing.assert_array_equal(bare["image"], batch["image"])


@pytest.mark.parametrize("shard_count", [2, 4])
def test_shards_join_to_the_unsharded_batch(scenes, shard_count):
  """Same elements, same crops: 12 batches are four epochs of 12 scenes."""
  options = {"scale_range": (0.5, 1.5), "seed": 5}
  whole = _take(scenes, 12, **options)
  shards = [
    _take(scenes, 12, shard_index=i, shard_count=shard_count, **options)
    for i in range(shard_count)
  ]
  for number, batch in enumerate(whole):
    for name, array in batch.items():
      parts = [shard[number][name] for shard in shards]
      assert parts[0].shape[0] == 4 // shard_count
      np.testing.assert_array_equal(np.concatenate(parts), array)


def test_shards_are_disjoint_and_an_epoch_is_complete(scenes):
  """Whole scenes as crops tell which scene was read."""
  options = {"crop_size": 96, "flip": False, "global_batch_size": 4}
  seen = [
    image.tobytes()
    for i in range(2)
    for batch in _take(scenes, 3, shard_index=i, shard_count=2, **options)
    for image in batch["image"]
  ]
  assert len(seen) == len(set(seen)) == 12


def test_epochs_differ_in_order_and_crops(scenes):
  options = {"crop_size": 96, "flip": False, "global_batch_size": 12}
  first, second = _take(scenes, 2, **options)
  ids = [[image.tobytes() for image in b["image"]] for b in (first, second)]
  assert sorted(ids[0]) == sorted(ids[1])
  assert ids[0] != ids[1]


def test_seed_decides(scenes):
  assert _equal(_take(scenes, 3, seed=1), _take(scenes, 3, seed=1))
  assert not _equal(_take(scenes, 3, seed=1), _take(scenes, 3, seed=2))


def test_threads_and_cache_change_nothing(scenes):
  options = {"scale_range": (0.5, 1.5)}
  plain = _take(scenes, 8, num_threads=0, **options)
  assert _equal(plain, _take(scenes, 8, num_threads=3, **options))
  assert _equal(plain, _take(scenes, 8, cache_decoded=True, **options))
  # Room for two scenes only.
  room = 2 * 96 * 96 * 4
  small = _take(scenes, 8, cache_decoded=True, cache_bytes=room, **options)
  assert _equal(plain, small)


def test_cache_keeps_to_its_bytes(scenes):
  room = 2 * 96 * 96 * 4 + 5
  source = datasets.open_source(
    scenes,
    "train",
    labelled_only=False,
    with_labels=True,
    max_side=None,
    cache_bytes=room,
  )
  for index in range(12):
    source[index]
  assert len(source._cache) == 2
  assert source[0]["image"] is source[0]["image"]
  with pytest.raises(ValueError, match="read-only"):
    source[0]["image"][0] = 0


def test_state_restores_exactly(scenes):
  options = {"global_batch_size": 4, "crop_size": 32, "num_threads": 2}
  iterator = pipeline.make_train_iterator(scenes, **options)
  for _ in range(5):
    next(iterator)
  state = iterator.get_state()
  expected = [next(iterator) for _ in range(4)]
  iterator.set_state(state)
  assert _equal(expected, [next(iterator) for _ in range(4)])
  fresh = pipeline.make_train_iterator(scenes, **options)
  fresh.set_state(state)
  assert _equal(expected, [next(fresh) for _ in range(4)])
  assert state == {"next_index": 5}


def test_state_goes_through_orbax(scenes, tmp_path):
  options = {"global_batch_size": 4, "crop_size": 32}
  iterator = pipeline.make_train_iterator(scenes, **options)
  for _ in range(3):
    next(iterator)
  with ocp.CheckpointManager(tmp_path.absolute() / "checkpoints") as manager:
    save = ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator))
    manager.save(3, args=save)
    manager.wait_until_finished()
    expected = [next(iterator) for _ in range(2)]
    fresh = pipeline.make_train_iterator(scenes, **options)
    restore = grain.checkpoint.CheckpointRestore(fresh)
    manager.restore(3, args=ocp.args.Composite(data=restore))
  assert _equal(expected, [next(fresh) for _ in range(2)])


def test_identity_follows_what_the_batches_depend_on(scenes, tmp_path):
  base = pipeline.dataset_identity(scenes, global_batch_size=4)
  assert base == pipeline.dataset_identity(scenes, global_batch_size=4)
  changes = [
    {"seed": 1},
    {"crop_size": 64},
    {"scale_range": (0.5, 1.0)},
    {"flip": False},
    {"split": "validation"},
    {"max_side": 64},
    {"global_batch_size": 8},
  ]
  identities = {
    pipeline.dataset_identity(scenes, **{"global_batch_size": 4, **change})
    for change in changes
  }
  assert len(identities | {base}) == len(changes) + 1
  # Built elsewhere, it is the same dataset.
  spec = pipeline.DatasetSpec(config="tiny", data_dir=str(tmp_path))
  assert pipeline.dataset_identity(spec, global_batch_size=4) == base


def test_evaluation_is_fixed_finite_and_of_one_shape(scenes):
  batches = pipeline.make_eval_batches(
    scenes, split="train", global_batch_size=5, crop_size=48
  )
  first, second = list(batches), list(batches)
  assert len(batches) == len(first) == 3
  assert _equal(first, second)
  assert {b["image"].shape for b in first} == {(5, 48, 48, 3)}
  assert [int(b["valid"].sum()) for b in first] == [5, 5, 2]
  pair = [
    pipeline.make_eval_batches(
      scenes, split="train", global_batch_size=4, crop_size=48,
      shard_index=i, shard_count=2, max_images=7,
    )
    for i in range(2)
  ]  # fmt: skip
  assert [len(shard) for shard in pair] == [2, 2]
  wanted = np.concatenate([b["image"] for b in first])[:7]
  together = [
    batch["image"][row]
    for batches in zip(*pair, strict=True)
    for row, batch in itertools.product(range(2), batches)
    if batch["valid"][row]
  ]
  np.testing.assert_array_equal(np.stack(together), wanted)


def test_pictures_without_labels_can_be_left_out(tmp_path):
  root = tmp_path / "s"
  for stem in "abcd":
    (root / "images").mkdir(parents=True, exist_ok=True)
    pixels = np.full((32, 32, 3), ord(stem), np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{stem}.png")
  (root / "labels").mkdir()
  Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / "labels" / "b.png")
  (root / "classes.txt").write_text("0\tsky\n")
  builder = pipeline.prepare(
    pipeline.DatasetSpec(
      name="image_label_folder",
      folder=root,
      data_dir=str(tmp_path / "built"),
      validation_fraction=0.0,
    )
  )
  batches = _take(builder, 3, labelled_only=True)
  values = {int(v) for b in batches for v in np.unique(b["image"])}
  assert values == {ord("b")}
  assert all((b["label"] == 1).all() for b in batches)
  with pytest.raises(ValueError, match="split = 'validation'"):
    _take(builder, 1, split="validation")


def test_large_pictures_are_reduced(scenes):
  options = {"labelled_only": False, "with_labels": True}
  whole = datasets.open_source(scenes, "train", max_side=None, **options)[0]
  element = datasets.open_source(scenes, "train", max_side=48, **options)[0]
  assert element["image"].shape == (48, 48, 3)
  # Nearest neighbour: every second pixel, no class made up.
  np.testing.assert_array_equal(element["label"], whole["label"][1::2, 1::2])
  means = [e["image"].mean() for e in (whole, element)]
  assert abs(means[0] - means[1]) < 1
  unchanged = datasets.open_source(scenes, "train", max_side=96, **options)[0]
  np.testing.assert_array_equal(unchanged["image"], whole["image"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"global_batch_size": 3, "shard_count": 2}, "global_batch_size = 3"),
    ({"shard_index": 2, "shard_count": 2}, "shard_index = 2"),
    ({"split": "test"}, "split = 'test'"),
    ({"prefetch": 0}, "prefetch = 0"),
    ({"max_side": 0}, "max_side = 0"),
    ({"crop_size": -1}, "crop_size = -1"),
  ],
)
def test_bad_arguments_are_named(scenes, options, message):
  with pytest.raises(ValueError, match=message):
    _take(scenes, 1, **options)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ({"name": "imagenet"}, "name = 'imagenet'"),
    ({"config": "huge"}, "config = 'huge'"),
    ({"name": "image_label_folder"}, "folder is not set"),
    ({"folder": "x"}, "folder = 'x'"),
    ({"name": "image_label_folder", "folder": "/nowhere"}, "is not a folder"),
  ],
)
def test_bad_specifications_are_named(spec, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    pipeline.prepare(pipeline.DatasetSpec(data_dir=str(tmp_path), **spec))


def test_two_builds_at_once(tmp_path, monkeypatch):
  """The loser of the race uses what the winner has built."""
  spec = pipeline.DatasetSpec(config="tiny", data_dir=str(tmp_path))
  generate = builders.SyntheticScenes._generate_examples
  entered = []

  def lose(self, *arguments):
    if not entered:
      entered.append(True)
      pipeline.prepare(spec)
    yield from generate(self, *arguments)

  monkeypatch.setattr(builders.SyntheticScenes, "_generate_examples", lose)
  builder = pipeline.prepare(spec)
  assert entered and pipeline.num_records(builder) == 12
  left = [path.name for path in builder.data_path.parent.iterdir()]
  assert left == [str(builder.version)]


def test_readable_by_tfds_alone(scenes):
  data_dir = scenes.data_path.parents[2]
  source = tfds.data_source(
    "synthetic_scenes/tiny", split="validation", data_dir=data_dir
  )
  assert len(source) == 4
  assert source[0]["image"].shape == (96, 96, 3)
  assert source[0]["label"].shape == (96, 96, 1)


def test_no_tensorflow(tmp_path):
  """Building, reading and batching, in a process of their own."""
  program = f"""
import sys
from egic_jax.data import pipeline
spec = pipeline.DatasetSpec(config="tiny", data_dir={str(tmp_path)!r})
next(pipeline.make_train_iterator(spec, global_batch_size=2, crop_size=32))
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


def test_labelled_photographs(photographs, tmp_path):
  """Three real sets as they are on disk, merged."""
  builder = pipeline.prepare(
    pipeline.DatasetSpec(
      name="image_label_folder",
      folder=photographs,
      sets=("camvid", "ccp", "wikipedia"),
      taxonomy="photographs",
      data_dir=str(tmp_path),
    )
  )
  assert pipeline.num_records(builder) == 201 + 180 + 41
  assert pipeline.num_records(builder, labelled_only=True) == 201 + 180
  assert pipeline.num_records(builder, "validation") == 26 + 20 + 4
  names = pipeline.class_names(builder)
  batches = list(
    pipeline.make_eval_batches(
      builder, global_batch_size=10, crop_size=200, labelled_only=True
    )
  )
  labels = np.concatenate([b["label"][b["valid"]] for b in batches])
  pixels = np.concatenate([b["image"][b["valid"]] for b in batches])
  assert len(labels) == 46
  share = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
  share = dict(zip(names, share, strict=True))
  assert share["road"] > 0.08 and share["person"] > 0.05
  assert share["cow"] == 0
  brightness = {
    name: pixels[labels == names.index(name)].mean() for name in ("sky", "road")
  }
  assert brightness["sky"] > brightness["road"] + 40
