"""`egic info`: what an .egic file holds."""

import argparse
import json
from collections.abc import Sequence

from egic_jax.cli import file_lists, models
from egic_jax.shipped import catalog


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic info",
    description="Tell what .egic files hold; with --model, or --parts and the"
    " shipped model that made them, also what each part of the stream costs.",
  )
  parser.add_argument("inputs", nargs="+", metavar="FILE", help=".egic files")
  models.add_argument(parser, by_file=True)
  parser.add_argument(
    "--parts",
    action="store_true",
    help="decode the file, to tell what each part of the stream costs",
  )
  parser.add_argument("--json", action="store_true", help="print JSON")
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  args = make_parser().parse_args(argv)
  codecs = models.FileCodecs(args.model)

  def tell(name: str, _: str) -> str:
    data = file_lists.read(name)
    if args.model or args.parts:
      facts = codecs.of(data).inspect(data)
    else:
      facts = _without_networks(data)
    if args.json:
      print(json.dumps({"file": name, **facts}))
    else:
      print(_text(name, facts))
    return f"{name}: ok"

  pairs = [(name, "") for name in args.inputs]
  return file_lists.each("info", pairs, tell, quiet=True)


def _without_networks(data: bytes) -> dict:
  """What the file says, and what its model's description says of it."""
  from egic_jax.bitstream import container

  facts = container.inspect(data)
  model = catalog.find_by_fingerprint(facts["fingerprint"])
  if model is not None:
    facts["model"] = model.name
    if "quality_code" in facts and model.levels:
      from egic_jax.bitstream import quality

      facts["quality"] = float(
        quality.of_code(facts["quality_code"], model.levels)
      )
  return facts


def _text(name: str, facts: dict) -> str:
  tiles = f" in {facts['tiles']} tiles" if facts["tiles"] > 1 else ""
  lines = [
    name,
    f"  image    {facts['width']} x {facts['height']} pixels{tiles}",
    f"  file     {facts['bytes']:,} bytes, {facts['bpp']:.4f} bpp"
    f" ({facts['header_bytes']} bytes besides the payload)",
    f"  format   version {facts['version']}",
    f"  model    {facts['fingerprint']}",
  ]
  if "model" in facts:
    lines[-1] += f" ({facts['model']})"
  if "quality" in facts:
    lines.append(f"  quality  {facts['quality']:.2f}")
  elif "quality_code" in facts:
    lines.append(f"  quality  code {facts['quality_code']} of 255")
  if "z_bytes" in facts:
    total = facts["payload_bytes"] or 1
    parts = [("z", facts["z_bytes"])]
    parts += [(f"y slice {i}", b) for i, b in enumerate(facts["y_bytes"])]
    lines.append("  payload")
    for part, size in parts:
      bar = "#" * round(40 * size / total)
      lines.append(f"    {part:<10} {size:>10,.1f} bytes  {bar}")
  return "\n".join(lines)
