import io
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from egic_jax.data import builders, pipeline, records


def _random_picture(seed, height=40, width=60):
  return np.random.default_rng(seed).integers(
    0, 256, (height, width, 3), np.uint8
  )


def _save(path, array, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  image = array if isinstance(array, Image.Image) else Image.fromarray(array)
  image.save(path, **options)


def _spec(folder, tmp_path, **options):
  return pipeline.DatasetSpec(
    name="image_label_folder",
    folder=folder,
    data_dir=str(tmp_path / "built"),
    **options,
  )


def _records(builder, split="train"):
  skip = tfds.decode.SkipDecoding()
  source = builder.as_data_source(
    split, decoders={"image": skip, "label": skip}
  )
  return {record["name"].decode(): record for record in source}


def test_two_sets_are_merged(tmp_path):
  root = tmp_path / "collection"
  label = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 40, 0).repeat(15, 1)
  for seed, (name, classes) in enumerate(
    {"one": "0\tSky\n1\tvarious\n2\tCar\n", "two": "0\tcar\n2\tsky\n"}.items()
  ):
    _save(root / name / "images" / "p.png", _random_picture(seed))
    _save(root / name / "labels" / "p.png", label)
    (root / name / "classes.txt").write_text(classes)
  _save(root / "three" / "images" / "p.png", _random_picture(7))
  builder = pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  # Sets are in the order of their names: Sky (one) comes first.
  assert pipeline.class_names(builder) == ("void", "sky", "car")
  found = _records(builder)
  row = {
    name: records.decode(record)["label"][3, ::15].tolist()
    for name, record in found.items()
  }
  # 255 is void, and so is index 1 of "two", which has no class.
  assert row == {
    "one/p": [1, 0, 2, 0],
    "two/p": [2, 0, 1, 0],
    "three/p": [0, 0, 0, 0],
  }
  assert not found["three/p"]["has_labels"] and found["one/p"]["has_labels"]
  assert pipeline.num_records(builder) == 3
  assert pipeline.num_records(builder, labelled_only=True) == 2


def test_original_bytes_are_kept(tmp_path):
  root = tmp_path / "photos"
  picture = Image.fromarray(_random_picture(0))
  _save(root / "a.jpg", picture, quality=80)
  _save(root / "b.webp", picture, quality=80)
  _save(root / "c.png", picture)
  _save(root / "d.bmp", picture)
  found = _records(
    pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  )
  for name in ("a.jpg", "b.webp", "c.png"):
    stored = found[f"photos/{name[0]}"]["image"]
    assert stored == (root / name).read_bytes()
  bitmap = found["photos/d"]["image"]
  assert Image.open(io.BytesIO(bitmap)).format == "PNG"
  np.testing.assert_array_equal(records.decode(found["photos/d"])["image"],
                                np.asarray(picture))  # fmt: skip


def test_every_kind_of_picture_becomes_rgb(tmp_path):
  root = tmp_path / "photos"
  picture = Image.fromarray(_random_picture(0))
  grey = picture.convert("L")
  _save(root / "grey.png", grey)
  _save(root / "palette.png", picture.quantize(16))
  alpha = picture.convert("RGBA")
  alpha.putalpha(Image.new("L", alpha.size, 0))
  _save(root / "alpha.png", alpha)
  _save(root / "cmyk.jpg", picture.convert("CMYK"), quality=95)
  sixteen = (np.asarray(grey).astype(np.uint16)) * 257
  _save(root / "sixteen.png", Image.fromarray(sixteen))
  exif = Image.Exif()
  exif[0x0112] = 6  # to be turned by 90 degrees
  _save(root / "turned.png", picture, exif=exif)
  found = _records(
    pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  )
  decoded = {
    name.split("/")[1]: records.decode(record)["image"]
    for name, record in found.items()
  }
  assert {image.shape for name, image in decoded.items() if name != "turned"} \
    == {(40, 60, 3)}  # fmt: skip
  expected = np.repeat(np.asarray(grey)[..., None], 3, -1)
  np.testing.assert_array_equal(decoded["grey"], expected)
  np.testing.assert_array_equal(decoded["sixteen"], expected)
  np.testing.assert_array_equal(
    decoded["palette"], np.asarray(picture.quantize(16).convert("RGB"))
  )
  assert (decoded["alpha"] == 255).all()  # on white
  np.testing.assert_array_equal(
    decoded["turned"], np.rot90(np.asarray(picture), -1)
  )


def test_label_map_belongs_to_the_picture_as_displayed(tmp_path):
  root = tmp_path / "s"
  exif = Image.Exif()
  exif[0x0112] = 6
  _save(root / "images" / "a.png", _random_picture(0), exif=exif)
  label = np.zeros((60, 40), np.uint8)
  label[:20] = 1
  _save(root / "labels" / "a.png", label)
  (root / "classes.txt").write_text("0\troad\n1\tsky\n")
  builder = pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  element = records.decode(_records(builder)["s/a"])
  assert element["image"].shape == (60, 40, 3)
  np.testing.assert_array_equal(element["label"], label + 1)


def test_palette_label_maps_are_indices(tmp_path):
  label = np.array([[0, 3], [7, 255]], np.uint8)
  image = Image.fromarray(label)
  image.putpalette(np.arange(768) % 256)
  assert image.mode == "P"
  image.save(tmp_path / "p.png")
  read = builders.image_label_folder.read_label(tmp_path / "p.png", (2, 2))
  np.testing.assert_array_equal(read, label)
  rgb = np.zeros((2, 2, 3), np.uint8)
  rgb[..., 0] = 9
  Image.fromarray(rgb).save(tmp_path / "rgb.png")
  with pytest.raises(ValueError, match="mode RGB"):
    builders.image_label_folder.read_label(tmp_path / "rgb.png", (2, 2))
  with pytest.raises(ValueError, match="2 x 2"):
    builders.image_label_folder.read_label(tmp_path / "p.png", (2, 3))


def test_corrupt_files_are_skipped_and_counted(tmp_path, capsys):
  root = tmp_path / "photos"
  for seed in range(3):
    _save(root / f"{seed}.png", _random_picture(seed))
  whole = (root / "0.png").read_bytes()
  (root / "cut.png").write_bytes(whole[: len(whole) // 2])
  (root / "text.jpg").write_text("not a picture")
  (root / "empty.webp").write_bytes(b"")
  builder = pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  assert sorted(_records(builder)) == ["photos/0", "photos/1", "photos/2"]
  assert "(3 skipped)" in capsys.readouterr().out
  again = pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  assert len(again.info.metadata["skipped"]) == 3


def test_only_corrupt_files_is_one_clear_line(tmp_path):
  root = tmp_path / "photos"
  root.mkdir()
  (root / "text.jpg").write_text("not a picture")
  spec = _spec(root, tmp_path, validation_fraction=0.0)
  with pytest.raises(ValueError, match="none of the 1 pictures") as caught:
    pipeline.prepare(spec)
  assert "\n" not in str(caught.value)
  # Nothing half-built is left behind.
  left = [
    name
    for _, _, names in os.walk(tmp_path / "built")
    for name in names
    if "array_record" in name
  ]
  assert not left


def test_unusable_validation_pictures_leave_training_alone(tmp_path):
  root = tmp_path / "s"
  _save(root / "images" / "a.png", _random_picture(0))
  (root / "images" / "b.png").write_bytes(b"broken")
  (root / "val.txt").write_text("b\n")
  builder = pipeline.prepare(_spec(root, tmp_path))
  assert list(builder.info.splits) == ["train"]


def test_changed_folder_is_built_anew(tmp_path):
  root = tmp_path / "photos"
  _save(root / "a.png", _random_picture(0))
  spec = _spec(root, tmp_path, validation_fraction=0.0)
  first = pipeline.prepare(spec)
  same = pipeline.prepare(spec)
  assert first.data_path == same.data_path
  _save(root / "b.png", _random_picture(1))
  second = pipeline.prepare(spec)
  assert second.data_path != first.data_path
  assert sorted(_records(second)) == ["photos/a", "photos/b"]
  _save(root / "a.png", _random_picture(2))  # other content, same name
  third = pipeline.prepare(spec)
  np.testing.assert_array_equal(
    records.decode(_records(third)["photos/a"])["image"], _random_picture(2)
  )


def test_other_taxonomy_is_another_dataset(tmp_path):
  root = tmp_path / "s"
  _save(root / "images" / "a.png", _random_picture(0))
  _save(root / "labels" / "a.png", np.ones((40, 60), np.uint8))
  (root / "classes.txt").write_text("1\tsky\n")
  plain = pipeline.prepare(_spec(root, tmp_path, validation_fraction=0.0))
  merged = pipeline.prepare(
    _spec(
      root, tmp_path, validation_fraction=0.0, taxonomy={"s": {"sky": "void"}}
    )
  )
  assert pipeline.class_names(plain) == ("void", "sky")
  assert pipeline.class_names(merged) == ("void",)
  assert records.decode(_records(plain)["s/a"])["label"].min() == 1
  assert records.decode(_records(merged)["s/a"])["label"].max() == 0
