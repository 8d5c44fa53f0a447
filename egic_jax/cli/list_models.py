"""`egic models`: the models that come with the package."""

import argparse
import dataclasses
import json
from collections.abc import Sequence

from egic_jax.shipped import catalog


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic models",
    description="List the models that come with the package; --model of other"
    " commands takes their names.",
  )
  parser.add_argument("--json", action="store_true", help="print JSON")
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  models = catalog.models()
  default = catalog.default().name if models else None
  if args.json:
    rows = [
      {**dataclasses.asdict(model), "path": str(model.path)}
      | {"default": model.name == default}
      for model in models
    ]
    print(json.dumps(rows, indent=2))
  elif not models:
    print("no model comes with this installation")
  for model in [] if args.json else models:
    print(_text(model, is_default=model.name == default))
  return 0


def _text(model: catalog.ShippedModel, is_default: bool) -> str:
  lines = [
    model.name + (" (default)" if is_default else ""),
    f"  {model.parameters:,} parameters, {model.size_bytes / 1e6:.1f} MB",
    f"  {_rates(model)}",
    f"  fingerprint {model.fingerprint}",
  ]
  if model.description:
    lines.append(f"  {model.description}")
  return "\n".join(lines)


def _rates(model: catalog.ShippedModel) -> str:
  """Such as `quality 1 to 8, 0.050 to 0.600 bpp`."""
  text = f"quality 1 to {model.levels}" if model.levels else "one rate"
  if model.bpp:
    ends = sorted({min(model.bpp), max(model.bpp)})
    text += f", {' to '.join(f'{bpp:.3f}' for bpp in ends)} bpp"
  return text
