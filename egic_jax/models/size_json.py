"""Sizes of networks as JSON: a frozen dataclass to a mapping and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

_Size = TypeVar("_Size")


def to_dict(size: Any) -> dict[str, Any]:
  """A JSON-able mapping with every field; tuples become lists."""
  fields = dataclasses.asdict(size)
  return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def from_dict(kind: type[_Size], fields: Mapping[str, Any], name: str) -> _Size:
  """Inverse of `to_dict`.

  Args:
    kind: the dataclass.
    fields: all of its fields, lists for tuples.
    name: of what is described, for the error.

  Raises:
    ValueError: naming unknown or missing keys, or from the dataclass itself.
  """
  names = {field.name for field in dataclasses.fields(kind)}
  if wrong := names.symmetric_difference(fields):
    raise ValueError(
      f"{name} description has unknown or missing keys: {sorted(wrong)}"
    )
  return kind(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
  )
