"""Trains the model that ships with the package, in slices of minutes.

    python experiments/ship_small/recipe.py pack --photographs DIR --to PACK
    python experiments/ship_small/recipe.py train --pack PACK --out RUN
    python experiments/ship_small/recipe.py export --from RUN --to FILE

README.md beside this file says how to do so on a machine that is lent for ten
minutes at a time, and `bench` what such a machine can do.
"""

import time

_STARTED = time.monotonic()

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parents[1])]

import plan  # noqa: E402

from egic_jax import runtime  # noqa: E402

# Stages that can do without what cuDNN finds best on a GPU.
_NO_CONVOLUTIONS = ("stage1_mse", "stage3_orp")


def make_parser() -> argparse.ArgumentParser:
  """The seven commands."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(dest="command", required=True)

  pack = commands.add_parser("pack", help="write the folder that travels")
  pack.add_argument("--photographs", required=True, type=pathlib.Path)
  pack.add_argument("--to", required=True, type=pathlib.Path)
  pack.add_argument(
    "--list",
    type=pathlib.Path,
    help="file of paths inside --photographs to choose from",
  )
  pack.add_argument("--mib", type=float, default=50, help="size at most")
  pack.add_argument("--part", type=int, default=0, help="which part, from 0")

  train = commands.add_parser("train", help="train one slice")
  _add_training(train)
  train.add_argument("--out", required=True, type=pathlib.Path)
  train.add_argument(
    "--from",
    dest="start_from",
    type=pathlib.Path,
    help="a save to start from, where --out has none",
  )
  train.add_argument("--slice-minutes", type=float, default=9)
  train.add_argument(
    "--total-minutes", type=float, default=27, help="of all slices together"
  )
  train.add_argument(
    "--total-updates",
    type=int,
    help="plan by updates instead: every run is then alike",
  )
  train.add_argument("--max-updates", type=int, help="of this slice")
  train.add_argument(
    "--programs", type=pathlib.Path, help="folder that `compile` wrote"
  )

  compile_ = commands.add_parser(
    "compile", help="compile for an H200 that need not be here"
  )
  _add_training(compile_)
  compile_.add_argument("--stages", nargs="+", default=list(_NO_CONVOLUTIONS))
  compile_.add_argument("--to", required=True, type=pathlib.Path)
  compile_.add_argument(
    "--tuned", type=pathlib.Path, help="what such a GPU found best"
  )

  bench = commands.add_parser("bench", help="measure updates a second")
  _add_training(bench)
  bench.add_argument("--stage", default="stage1_mse")
  bench.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64])
  bench.add_argument("--kinds", nargs="+", default=["muon", "adam"])
  bench.add_argument("--seconds", type=float, default=5, help="of each")

  export = commands.add_parser("export", help="write the model file")
  export.add_argument(
    "--from", dest="start_from", required=True, type=pathlib.Path
  )
  export.add_argument("--to", required=True, type=pathlib.Path)
  export.add_argument(
    "--half", action="store_true", help="float16: a file half as large"
  )
  export.add_argument("--hardware", default="", help="for the model's metadata")

  blend = commands.add_parser("blend", help="less of stage 2, stage 3 anew")
  blend.add_argument("--first", required=True, type=pathlib.Path)
  blend.add_argument("--last", required=True, type=pathlib.Path)
  blend.add_argument("--share", required=True, type=float)
  blend.add_argument("--to", required=True, type=pathlib.Path)

  lean = commands.add_parser("lean", help="a save without moments, to carry")
  lean.add_argument(
    "--from", dest="start_from", required=True, type=pathlib.Path
  )
  lean.add_argument("--to", required=True, type=pathlib.Path)
  return parser


def _add_training(parser):
  parser.add_argument(
    "--pack", required=True, type=pathlib.Path, action="append"
  )
  parser.add_argument("--size", default="small")
  parser.add_argument("--dtype", help="float32 or bfloat16")
  parser.add_argument("--batch-size", type=int, help="of all stages")


def _settings(arguments):
  settings = plan.get_settings(arguments.size)
  if arguments.dtype:
    settings = plan.replace_dtype(settings, arguments.dtype)
  if arguments.batch_size:
    stages = {
      name: dataclasses.replace(stage, batch_size=arguments.batch_size)
      for name, stage in settings.stages.items()
    }
    settings = dataclasses.replace(settings, stages=stages)
  return settings


def _report(line):
  print(line, flush=True)


def _pack(arguments):
  import photographs

  names = None
  if arguments.list:
    names = frozenset(arguments.list.read_text().split("\n"))
  line = photographs.pack(
    arguments.photographs.resolve(),
    arguments.to,
    names=names,
    limit_mib=arguments.mib,
    part=arguments.part,
  )
  _report(line)


def _train(arguments):
  import slices

  _report_devices()
  length = plan.Length(arguments.total_minutes * 60)
  if arguments.total_updates:
    length = plan.Length(arguments.total_updates, counts_updates=True)
  slices.Slice(
    _settings(arguments),
    size=arguments.size,
    packs=arguments.pack,
    out=arguments.out,
    start_from=arguments.start_from,
    length=length,
    seconds=arguments.slice_minutes * 60,
    started=_STARTED,
    max_updates=arguments.max_updates,
    kept_programs=arguments.programs,
    report=_report,
  ).run()


def _compile(arguments):
  import beforehand

  beforehand.compile_stages(
    _settings(arguments),
    packs=arguments.pack,
    names=arguments.stages,
    to=arguments.to,
    tuned=arguments.tuned,
    report=_report,
  )


def _bench(arguments):
  import bench

  _report_devices()
  bench.run(
    _settings(arguments),
    packs=arguments.pack,
    stage=arguments.stage,
    batch_sizes=arguments.batch_sizes,
    kinds=arguments.kinds,
    seconds=arguments.seconds,
    report=_report,
  )


def _report_devices():
  import jax

  devices = ", ".join(str(device) for device in jax.devices())
  kind = jax.devices()[0].device_kind
  _report(f"jax {jax.__version__}, {devices} ({kind})")


def _export(arguments):
  import export

  _report(
    export.export(
      arguments.start_from,
      arguments.to,
      half=arguments.half,
      hardware=arguments.hardware,
    )
  )


def _blend(arguments):
  import blend

  _report(
    blend.blend(arguments.first, arguments.last, arguments.to, arguments.share)
  )


def _lean(arguments):
  import export

  _report(export.lean(arguments.start_from, arguments.to))


def main(argv: list[str] | None = None) -> int:
  """Runs a command; what cannot be done is one line and exit code 1."""
  arguments = make_parser().parse_args(argv)
  commands = {
    "pack": _pack,
    "train": _train,
    "compile": _compile,
    "bench": _bench,
    "export": _export,
    "blend": _blend,
    "lean": _lean,
  }
  runtime.configure()
  from egic_jax.training import errors

  try:
    commands[arguments.command](arguments)
  except (OSError, ValueError, errors.TrainingError) as error:
    print(f"recipe: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
