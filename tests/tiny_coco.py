"""experiments/tiny_coco/make.py as a module."""

import importlib.util
import pathlib
import sys

_PATH = (
  pathlib.Path(__file__).resolve().parents[1]
  / "experiments"
  / "tiny_coco"
  / "make.py"
)
_spec = importlib.util.spec_from_file_location("tiny_coco_make", _PATH)
make = importlib.util.module_from_spec(_spec)
# Dataclasses look their module up.
sys.modules[_spec.name] = make
_spec.loader.exec_module(make)
