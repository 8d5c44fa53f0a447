"""`egic aot`: compiles training steps for TPU slices, on a machine without."""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import pathlib
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from egic_jax import atomic_files
from egic_jax.cli import overrides

_GIB = 2**30


def make_parser() -> argparse.ArgumentParser:
  """The command's arguments."""
  parser = argparse.ArgumentParser(
    prog="egic aot",
    description=(
      "Compile the training step of a configuration for a TPU slice, ahead of"
      " time and without a TPU, and tell what it takes there: memory, work,"
      " messages between chips, and the least time of a step by the chip's"
      " published rates. Neither data nor checkpoints are opened. LPIPS is part"
      " of stages that have it unless loss.lpips_weight=0."
    ),
    epilog=(
      "Example: egic aot --topology v5e:4x4 --config configs/full_gan.py"
      " --batch-per-chip 8 model.compute_dtype=bfloat16. Full-size steps take"
      " tens of minutes to compile; --json keeps what is done."
    ),
  )
  parser.add_argument(
    "--config",
    required=True,
    action="append",
    metavar="FILE",
    help="a Python file with get_config(); may be given several times",
  )
  parser.add_argument(
    "--topology",
    required=True,
    action="append",
    metavar="SLICE",
    help="generation and chips, such as v5e:4x4; may be given several times",
  )
  parser.add_argument(
    "--batch-per-chip",
    type=int,
    metavar="N",
    help="crops of a chip, in place of data.batch_size (of the whole slice)",
  )
  parser.add_argument(
    "--num-classes",
    type=int,
    metavar="N",
    help="classes without void, for data that would have to be opened",
  )
  parser.add_argument(
    "--quick",
    action="store_true",
    help="less effort on the program's speed: compiles sooner",
  )
  parser.add_argument(
    "--json", metavar="FILE", help="write results there, after each program"
  )
  parser.add_argument(
    "overrides",
    nargs="*",
    metavar="section.key=value",
    help="replaces a value of every configuration",
  )
  return parser


def run(argv: Sequence[str]) -> int:
  """Runs the command; see `main.main` for exit codes."""
  parser = make_parser()
  args = parser.parse_intermixed_args(argv)
  for name in ("batch_per_chip", "num_classes"):
    value = getattr(args, name)
    if value is not None and value < 1:
      parser.error(f"--{name.replace('_', '-')} {value}: must be at least 1")
  if args.json and not pathlib.Path(args.json).absolute().parent.is_dir():
    raise ValueError(f"--json {args.json}: its directory does not exist")

  from egic_jax.training import tpu_topology

  # Before anything imports jax; and what is wrong is told before it.
  tpu_topology.prepare_environment()
  for name in args.topology:
    tpu_topology.parse_name(name)
  tpu_topology.check_libtpu()

  from egic_jax.training import ahead_of_time

  slices = [tpu_topology.open_slice(name) for name in args.topology]
  programs = []
  for path in args.config:
    for target in slices:
      config = overrides.load_config(path)
      overrides.apply_overrides(config, args.overrides)
      if args.batch_per_chip:
        config.data.batch_size = args.batch_per_chip * len(target.devices)
      try:
        program = ahead_of_time.prepare(
          config, target, num_classes=args.num_classes
        )
      except ValueError as error:
        hint = ""
        if str(error).startswith("data.batch_size="):
          hint = "; --batch-per-chip N gives every chip as many"
        raise ValueError(f"{path} on {target.name}: {error}{hint}") from None
      programs.append((pathlib.Path(path).stem, program))

  rows = []
  for number, (name, program) in enumerate(programs, 1):
    with _elapsed(
      f"{number}/{len(programs)}  {name} for {program.target.name}: compiling"
    ):
      measured = ahead_of_time.measure(
        program, ahead_of_time.QUICK if args.quick else None
      )
    rows.append(make_row(name, program, measured))
    print(describe(rows[-1]), flush=True)
    if args.json:
      text = json.dumps(rows, indent=1) + "\n"
      atomic_files.write_bytes(args.json, text.encode())
  if len(rows) > 1:
    print(f"\n{table(rows)}")
  return 0


def make_row(name: str, program: Any, measured: Any) -> dict[str, Any]:
  """A program and what was measured, as JSON.

  Args:
    name: of the configuration.
    program: `ahead_of_time.Program`.
    measured: `ahead_of_time.Measurement`.

  Returns:
    A mapping of numbers, names and flat mappings. Bytes and FLOPs are those of
    one chip.
  """
  config, target = program.config, program.target
  chips = program.mesh.size
  fits = (
    measured.memory is not None
    and measured.memory.peak <= target.chip.hbm_bytes
  )
  memory = None
  if measured.memory:
    memory = dataclasses.asdict(measured.memory)
    memory |= {"peak": measured.memory.peak}
  times = None
  if measured.roofline:
    times = dataclasses.asdict(measured.roofline)
    times |= {"step": measured.roofline.step, "bound": measured.roofline.bound}
  return {
    "config": name,
    "stage": program.stage.name,
    "preset": config.model.preset,
    "compute_dtype": config.model.compute_dtype,
    "topology": target.name,
    "chips": chips,
    "mesh": dict(program.mesh.shape),
    "batch_size": config.data.batch_size,
    "batch_per_chip": config.data.batch_size / chips,
    "crop_size": config.data.crop_size,
    "accumulate": config.train.accumulate,
    "fits": fits,
    "hbm_bytes": target.chip.hbm_bytes,
    "needed_bytes": measured.needed_bytes,
    "memory_bytes": memory,
    "flops": measured.flops,
    "bytes_accessed": measured.bytes_accessed,
    "collectives": [
      dataclasses.asdict(c) | {"sent_bytes": c.sent_bytes}
      for c in measured.messages
    ],
    "roofline_seconds": times,
    "lower_seconds": measured.lower_seconds,
    "compile_seconds": measured.compile_seconds,
    "compile_cpu_seconds": measured.compile_cpu_seconds,
    # Of this process so far, in bytes (Linux counts KiB).
    "process_peak_bytes": 1024
    * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "compiler_options": measured.compiler_options,
    "jax": importlib.metadata.version("jax"),
    "libtpu": importlib.metadata.version("libtpu"),
  }


def describe(row: dict[str, Any]) -> str:
  """A block of lines about one program."""
  verdict = "fits" if row["fits"] else "does not fit"
  needed = row["needed_bytes"]
  amount = f"{needed / _GIB:.2f}" if needed else "more"
  lines = [
    f"{row['config']} ({row['stage']}, {row['preset']}, {row['compute_dtype']})"
    f" on {row['topology']}",
    f"  chips        {row['chips']}, {row['batch_per_chip']:g} crops of"
    f" {row['crop_size']} x {row['crop_size']} each, {row['batch_size']} in all",
    f"  memory       {amount} of {row['hbm_bytes'] / _GIB:.0f} GiB a chip:"
    f" {verdict}",
  ]
  if row["memory_bytes"]:
    parts = row["memory_bytes"]
    listed = ", ".join(
      f"{name} {parts[name] / _GIB:.3f}"
      for name in ("arguments", "outputs", "aliased", "temporaries", "code")
    )
    lines.append(f"               {listed}")
    lines.append(
      f"  work         {row['flops'] / 1e12:.3f} TFLOP a chip and step,"
      f" {row['flops'] * row['chips'] / 1e12:.1f} in all;"
      f" {row['bytes_accessed'] / 1e9:.1f} GB moved a chip"
    )
    for message in row["collectives"]:
      lines.append(
        f"  messages     {message['count']} {message['kind']} among"
        f" {message['group']}: {message['payload_bytes'] / 1e6:.1f} MB"
      )
    if not row["collectives"]:
      lines.append("  messages     none")
    times = row["roofline_seconds"]
    lines.append(
      f"  roofline     {times['step'] * 1e3:.2f} ms a step ({times['bound']}):"
      f" compute {times['compute'] * 1e3:.2f} at the bfloat16 peak (float32"
      f" may be slower), memory {times['memory'] * 1e3:.2f}, links"
      f" {times['links'] * 1e3:.2f}"
    )
  options = "".join(f", {k}={v}" for k, v in row["compiler_options"].items())
  lines.append(
    f"  compiled     in {row['compile_seconds']:.0f} s"
    f" ({row['compile_cpu_seconds']:.0f} s of all cores), traced in"
    f" {row['lower_seconds']:.0f} s, jax {row['jax']}, libtpu"
    f" {row['libtpu']}{options}"
  )
  return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
  """All programs in a table, one line each."""
  head = (
    "configuration",
    "type",
    "slice",
    "a chip",
    "GiB",
    "of",
    "fits",
    "TFLOP",
    "GB",
    "ms",
    "bound",
  )
  lines = [head]
  for row in rows:
    times = row["roofline_seconds"]
    needed = row["needed_bytes"]
    lines.append(
      (
        row["config"],
        row["compute_dtype"],
        row["topology"],
        f"{row['batch_per_chip']:g}",
        f"{needed / _GIB:.2f}" if needed else "more",
        f"{row['hbm_bytes'] / _GIB:.0f}",
        "yes" if row["fits"] else "no",
        f"{row['flops'] / 1e12:.2f}" if times else "",
        f"{row['bytes_accessed'] / 1e9:.0f}" if times else "",
        f"{times['step'] * 1e3:.1f}" if times else "",
        times["bound"] if times else "",
      )
    )
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      f"{cell:<{w}}" for cell, w in zip(line, widths, strict=True)
    ).rstrip()
    for line in lines
  )


@contextlib.contextmanager
def _elapsed(what: str) -> Iterator[None]:
  """Tells on stderr how long something has been going on."""
  on_terminal = sys.stderr.isatty()
  began = time.perf_counter()
  done = threading.Event()

  def tell():
    while not done.wait(1 if on_terminal else 60):
      seconds = time.perf_counter() - began
      end = "\r" if on_terminal else "\n"
      print(f"{what}, {seconds:.0f} s", end=end, file=sys.stderr, flush=True)

  print(f"{what} ...", file=sys.stderr, flush=True)
  thread = threading.Thread(target=tell, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
    if on_terminal:
      print(file=sys.stderr)
