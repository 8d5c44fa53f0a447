import json

import numpy as np
import pytest

from egic_jax.data import taxonomy

_TWO_SETS = {
  "a": {0: "Sky", 1: "building", 3: "void", 255: "ignored"},
  "b": {0: "background", 1: "House", 2: "sky"},
}


def test_union_merges_equal_names_and_voids_catch_alls():
  names, tables = taxonomy.load(None).merge(_TWO_SETS)
  assert names == ("void", "sky", "building", "house")
  assert tables["a"][:5].tolist() == [1, 2, 0, 0, 0]
  assert tables["b"][:4].tolist() == [0, 3, 1, 0]
  assert tables["a"][255] == 0 and tables["a"].dtype == np.uint8


def test_mapping_merges_and_keeps_the_given_order():
  merging = taxonomy.load(
    {
      "classes": ["building", "sky"],
      "sets": {
        "a": {"sky": "sky", "*": "void", "BUILDING": "building"},
        "b": {"house": "building", "sky": "sky", "background": "void"},
      },
    }
  )
  names, tables = merging.merge(_TWO_SETS)
  assert names == ("void", "building", "sky")
  assert tables["a"][:2].tolist() == [2, 1]
  assert tables["b"][:3].tolist() == [0, 1, 2]


def test_index_255_is_void_even_when_named():
  _, tables = taxonomy.load(None).merge({"a": {255: "sky", 0: "road"}})
  assert tables["a"][255] == 0
  assert tables["a"][0] > 0


@pytest.mark.parametrize(
  ("mapping", "message"),
  [
    ({"a": {"sky": "sky"}}, "is not mapped"),
    ({"a": {"skye": "sky", "*": "void"}}, "has no class 'skye'"),
    ({"classes": ["road"], "sets": {"a": {"*": "sky"}}}, "not in classes"),
  ],
)
def test_mistakes_are_named(mapping, message):
  with pytest.raises(ValueError, match=message):
    taxonomy.load(mapping).merge({"a": _TWO_SETS["a"]})


def test_too_many_classes():
  classes = {
    "a": {index: f"a{index}" for index in range(200)},
    "b": {index: f"b{index}" for index in range(100)},
  }
  with pytest.raises(ValueError, match="300 classes"):
    taxonomy.load(None).merge(classes)


def test_load_from_json(tmp_path):
  path = tmp_path / "merge.json"
  path.write_text(json.dumps({"a": {"*": "thing"}}))
  assert taxonomy.load(path).merged("a", "sky") == "thing"
  path.write_text("{")
  with pytest.raises(ValueError, match="JSON"):
    taxonomy.load(path)
  path.write_text('{"a": 3}')
  with pytest.raises(ValueError, match="expected"):
    taxonomy.load(path)
  with pytest.raises(ValueError, match="no such file"):
    taxonomy.load(tmp_path / "none.json")


def test_photographs_uses_every_class_it_declares():
  merged = {
    name
    for mapping in taxonomy.PHOTOGRAPHS.sets.values()
    for name in mapping.values()
  }
  assert merged - {"void"} == set(taxonomy.PHOTOGRAPHS.classes)


def test_digest_follows_the_content():
  first = taxonomy.load({"a": {"*": "x"}}).digest()
  assert first == taxonomy.load({"a": {"*": "x"}}).digest()
  assert first != taxonomy.load({"a": {"*": "y"}}).digest()
