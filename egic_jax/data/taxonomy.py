"""Which class of which set means what: several label sets become one.

Label maps here are uint8 with 0 = void (ignored by every loss) and 1..N the
merged classes. A set on disk has its own indices and names; a taxonomy maps
{set: {class name: merged class}}.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

VOID = "void"
# On disk: never a class (the convention of VOC, Cityscapes and others).
IGNORED_INDEX = 255
MAX_CLASSES = 255

# Names by which label sets call "anything else": not a class of its own,
# since what one set leaves out another one names.
CATCH_ALL = frozenset(
  [
    "void",
    "ignore",
    "ignored",
    "unlabelled",
    "unlabeled",
    "unknown",
    "null",
    "none",
    "various",
    "background",
    "other",
  ]
)

# Any class of a set that is not named itself.
WILDCARD = "*"


@dataclasses.dataclass(frozen=True)
class Taxonomy:
  """A mapping of the classes of several sets to merged classes.

  Sets that `sets` does not name keep their own classes, in lower case, with
  catch-all classes void; classes of the same name are then one class.

  Attributes:
    sets: {set name: {class name: merged class name}}. Class names are compared
      in lower case. The key "*" stands for every class not named; without it, a
      class that is not named is an error. The merged class "void" is ignored.
    classes: merged classes in the order of their indices 1..N; empty for order
      of first appearance.
  """

  sets: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=lambda: MappingProxyType({})
  )
  classes: tuple[str, ...] = ()

  def merged(self, set_name: str, class_name: str) -> str:
    """The merged class (or "void") of one class of a set.

    Raises:
      ValueError: the set is mapped, but this class of it is not.
    """
    name = class_name.strip().lower()
    mapping = self.sets.get(set_name)
    if mapping is None:
      return VOID if name in CATCH_ALL else name
    mapping = {key.strip().lower(): value for key, value in mapping.items()}
    if name in mapping:
      return mapping[name].strip().lower()
    if WILDCARD in mapping:
      return mapping[WILDCARD].strip().lower()
    raise ValueError(
      f"taxonomy: class {class_name!r} of set {set_name!r} is not mapped; name"
      f' it (or "{WILDCARD}" for all others) and give "{VOID}" to ignore it'
    )

  def merge(
    self, sets: Mapping[str, Mapping[int, str]]
  ) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Applies the taxonomy to sets as they are on disk.

    Args:
      sets: {set name: {index on disk: class name}}.

    Returns:
      names: ("void", class 1, ..., class N), only classes that some set has
        unless `classes` fixes them.
      tables: {set name: (256,) uint8}, index on disk to merged index; indices
        that have no class, and 255, become 0.

    Raises:
      ValueError: a class is not mapped, a mapping names a class that its set
        does not have, a merged class is missing from `classes`, or there are
        more than 255 classes.
    """
    targets = {}
    for set_name, class_names in sets.items():
      present = {name.strip().lower() for name in class_names.values()}
      unknown = [
        key
        for key in self.sets.get(set_name, {})
        if key != WILDCARD and key.strip().lower() not in present
      ]
      if unknown:
        raise ValueError(
          f"taxonomy: set {set_name!r} has no class {unknown[0]!r}; it has"
          f" {', '.join(sorted(present))}"
        )
      targets[set_name] = {
        index: self.merged(set_name, name)
        for index, name in sorted(class_names.items())
      }
    names = [VOID, *(name.strip().lower() for name in self.classes)]
    for set_name, merged in targets.items():
      for name in merged.values():
        if name in names:
          continue
        if self.classes:
          raise ValueError(
            f"taxonomy: merged class {name!r} (set {set_name!r}) is not in"
            " classes; add it there"
          )
        names.append(name)
    if len(names) > MAX_CLASSES + 1:
      raise ValueError(
        f"taxonomy: {len(names) - 1} classes, but label maps hold at most"
        f" {MAX_CLASSES}; merge some"
      )
    tables = {}
    for set_name, merged in targets.items():
      table = np.zeros(256, np.uint8)
      for index, name in merged.items():
        if index != IGNORED_INDEX:
          table[index] = names.index(name)
      tables[set_name] = table
    return tuple(names), tables

  def digest(self) -> str:
    """A hash of the content, as hexadecimal digits."""
    content = {
      "sets": {name: dict(mapping) for name, mapping in self.sets.items()},
      "classes": list(self.classes),
    }
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load(source: str | os.PathLike | Mapping | Taxonomy | None) -> Taxonomy:
  """A taxonomy from whatever a configuration may hold.

  Args:
    source: None or "union" (every set keeps its own classes, equal names are
      one class); "photographs" (PHOTOGRAPHS below); a path to a JSON file; or a
      mapping, either {set: {class: merged}} or
      {"classes": [...], "sets": {set: {class: merged}}}.

  Raises:
    ValueError: the file is missing or not of that form.
  """
  if isinstance(source, Taxonomy):
    return source
  if source is None or source == "union":
    return Taxonomy()
  if source == "photographs":
    return PHOTOGRAPHS
  where = "taxonomy"
  if isinstance(source, (str, os.PathLike)):
    where = f"taxonomy = {os.fspath(source)!r}"
    try:
      with open(source, encoding="utf-8") as file:
        source = json.load(file)
    except FileNotFoundError:
      raise ValueError(
        f"{where}: no such file; give a JSON file, 'photographs' or 'union'"
      ) from None
    except (OSError, ValueError) as error:
      raise ValueError(f"{where}: cannot be read as JSON: {error}") from None
  if not isinstance(source, Mapping):
    raise ValueError(f"{where}: expected {{set: {{class: merged class}}}}")
  classes = ()
  if "sets" in source:
    classes, source = source.get("classes", ()), source["sets"]
  well_formed = (
    isinstance(source, Mapping)
    and isinstance(classes, Sequence)
    and not isinstance(classes, str)
    and all(isinstance(name, str) for name in classes)
    and all(
      isinstance(mapping, Mapping)
      and all(isinstance(x, str) for pair in mapping.items() for x in pair)
      for mapping in source.values()
    )
  )
  if not well_formed:
    raise ValueError(f"{where}: expected {{set: {{class: merged class}}}}")
  return Taxonomy(
    sets={name: dict(mapping) for name, mapping in source.items()},
    classes=tuple(classes),
  )


def _same(names: str) -> dict[str, str]:
  return {name: name for name in names.split()}


# One taxonomy for five public sets of photographs with label maps: MSRC v2,
# LabelMeFacade, CamVid, PASCAL VOC (its animals) and Clothing Co-Parsing. What
# looks the same is one class: a window is part of a building, since only one
# of the three sets with buildings tells them apart, and clothes are part of a
# person. Catch-all classes are void.
PHOTOGRAPHS = Taxonomy(
  sets={
    "msrc_v2": {
      **_same(
        "building grass tree cow horse sheep sky mountain aeroplane water car"
        " bicycle sign bird road cat dog boat"
      ),
      "face": "person",
      "body": "person",
      "flower": "plant",
      "book": "object",
      "chair": "furniture",
    },
    "labelmefacade": {
      **_same("building car pavement road sky"),
      "various": VOID,
      "door": "building",
      "window": "building",
      "vegetation": "tree",
    },
    "camvid": {
      **_same("sky building pole road pavement tree sign fence car"),
      "pedestrian": "person",
      "bicyclist": "bicycle",
    },
    "voc_animals": {
      **_same("aeroplane bicycle bird boat car cat cow dog horse person sheep"),
      "background": VOID,
      "bottle": "object",
      "tvmonitor": "object",
      "bus": "vehicle",
      "motorbike": "vehicle",
      "train": "vehicle",
      "chair": "furniture",
      "diningtable": "furniture",
      "sofa": "furniture",
      "pottedplant": "plant",
    },
    # Bags are carried, not worn, and other sets do not count them as person.
    "ccp": {
      "null": VOID,
      "bag": VOID,
      "purse": VOID,
      "wallet": VOID,
      WILDCARD: "person",
    },
  },
  classes=tuple(
    [
      "sky",
      "building",
      "road",
      "pavement",
      "grass",
      "tree",
      "mountain",
      "water",
      "plant",
      "person",
      "car",
      "vehicle",
      "bicycle",
      "boat",
      "aeroplane",
      "sign",
      "pole",
      "fence",
      "cow",
      "horse",
      "sheep",
      "cat",
      "dog",
      "bird",
      "furniture",
      "object",
    ]
  ),
)
