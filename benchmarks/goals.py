"""What a CPU can show of the goals for speed: one command, one table.

    python benchmarks/goals.py --picture kodim01.png --json goals.json

Parts run one after the other, each in processes of its own. Times of the official
TensorFlow code are from another machine: they are divided by the ratio of what a
4096^3 float32 product does here, measured in turn with ours in the same process, to
what it did there. Files are coded with programs of a process before, as in all
but the first on a machine; the training step is compiled. Of whole processes the
wall clock counts, start and imports included. A GPU's goals are measured by
accelerator.py.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

_EGIC = (sys.executable, "-m", "egic_jax")

# The official code on two CPU cores, whose product ran at so many GFLOP/s in jax.
OFFICIAL_GFLOPS = 148.0
OFFICIAL_SECONDS = {"encode": 2.48, "decode": 2.21, "step": 27.2}
# 512 x 768 pixels of `full`.
SYMBOLS = 491_520


@dataclasses.dataclass(frozen=True)
class Goal:
  """One line of the table.

  Attributes:
    name: what is measured.
    key: of `measure`'s results.
    goal, beyond: what it must not exceed, and what would be better still.
    unit: of these and of the result: "x" is the official time, scaled.
  """

  name: str
  key: str
  goal: float
  beyond: float
  unit: str


GOALS = (
  Goal("encode 512 x 768, `full`", "encode", 1.0, 0.8, "x"),
  Goal("- in bfloat16", "encode, bfloat16", 1.0, 0.8, "x"),
  Goal("decode 512 x 768, `full`", "decode", 1.0, 0.8, "x"),
  Goal("- in bfloat16", "decode, bfloat16", 1.0, 0.8, "x"),
  Goal("training step 8 x 256 x 256, `full`", "step", 0.8, 0.6, "x"),
  Goal("its tracing and compiling", "compile", 60, 25, "s"),
  Goal("first `egic decompress`, `small`", "first process", 20, 10, "s"),
  Goal("second one", "second process", 4, 2, "s"),
  Goal("range decoding, symbols of `full`", "range decoding", 15, 5, "ms"),
)


def main() -> None:
  """Measures, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    "--picture", required=True, metavar="FILE", help="of 768 x 512 pixels"
  )
  parser.add_argument("--json", metavar="FILE", help="what was measured")
  parser.add_argument("--part", choices=sorted(_PARTS), help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.part:
    print(json.dumps(_PARTS[args.part](args.picture)))
    return
  from egic_jax import images

  try:
    images.read(args.picture)
  except (OSError, ValueError) as error:
    parser.error(str(error))
  found = measure(args.picture)
  print(f"\n{where()}\n\n{table(found)}")
  if args.json:
    report = json.dumps({"where": where()} | found, indent=2)
    pathlib.Path(args.json).write_text(report + "\n")


def measure(picture: str) -> dict[str, dict[str, float]]:
  """All parts: for each key of GOALS "value", and "seconds" or "gflops"."""
  found = {}
  with tempfile.TemporaryDirectory() as cache:
    _network_speed(cache, "coding", repeats=1)  # Has programs compiled.
    rows = _network_speed(cache, "coding", repeats=7)
    for key in ("encode", "decode"):
      for name in (key, f"{key}, bfloat16"):
        found[name] = _scaled(key, rows[name]["median"], rows)
    rows = _network_speed(cache, "training", repeats=4)
    (row,) = [row for row in rows.values() if "compile" in row]
    found["step"] = _scaled("step", row["median"], rows)
    found["compile"] = {"value": row["compile"]}
  for part in _PARTS:
    command = (*_script("goals.py"), "--part", part, "--picture", picture)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    values = json.loads(output.splitlines()[-1])
    found |= {key: {"value": value} for key, value in values.items()}
  return found


def table(found: dict[str, dict[str, float]]) -> str:
  """A markdown table of what `measure` found beside the goals."""
  lines = [
    "| | goal | beyond | measured | | seconds | product, GFLOP/s |",
    "|---|---|---|---|---|---|---|",
  ]
  for goal in GOALS:
    row = found[goal.key]
    value = row["value"]
    verdict = "**not met**"
    if value <= goal.goal:
      verdict = "beyond" if value <= goal.beyond else "met"
    seconds = f"{row['seconds']:.3f}" if "seconds" in row else ""
    gflops = f"{row['gflops']:.0f}" if "gflops" in row else ""
    digits = 2 if goal.unit == "x" else 1
    lines.append(
      f"| {goal.name} | {goal.goal:g} {goal.unit} | {goal.beyond:g} |"
      f" {value:.{digits}f} {goal.unit} | {verdict} | {seconds} | {gflops} |"
    )
  return "\n".join(lines)


def where() -> str:
  """Machine, versions, date and commit in one line."""
  import jax
  import provenance

  cores = os.cpu_count()
  return f"{cores} CPU cores, jax {jax.__version__}, {provenance.line()}"


def _scaled(key, seconds, rows):
  """A time as a share of the official one on a machine as fast as this."""
  (product,) = [row for name, row in rows.items() if name.startswith("product")]
  gflops = product["gflop"] / product["median"]
  official = OFFICIAL_SECONDS[key] * OFFICIAL_GFLOPS / gflops
  return {"value": seconds / official, "seconds": seconds, "gflops": gflops}


def _script(name: str) -> tuple[str, str]:
  return sys.executable, str(pathlib.Path(__file__).resolve().with_name(name))


def _network_speed(cache: str, part: str, repeats: int) -> dict:
  report = pathlib.Path(cache, "report.json")
  command = [*_script("network_speed.py"), "--parts", part]
  command += ["--repeats", str(repeats), "--json", str(report)]
  environment = os.environ | {"EGIC_CACHE_DIR": cache}
  subprocess.run(command, check=True, env=environment)
  return json.loads(report.read_text())[part]


def _processes(picture: str) -> dict[str, float]:
  """Seconds of `egic decompress`: the first on a machine, the median of four."""
  import stand_in

  from egic_jax import images
  from egic_jax.bitstream import model_file

  with tempfile.TemporaryDirectory() as folder:
    model = stand_in.model("small", images.read(picture))
    model_file.save_model(f"{folder}/small.safetensors", model)
    _egic(folder, "made", "compress", picture, "-o", f"{folder}/a.egic")
    times = []
    for i in range(5):
      start = time.perf_counter()
      coded, back = f"{folder}/a.egic", f"{folder}/{i}.png"
      _egic(folder, "read", "decompress", coded, "-o", back)
      times.append(time.perf_counter() - start)
  return {
    "first process": times[0],
    "second process": statistics.median(times[1:]),
  }


def _egic(folder: str, cache: str, *arguments: str) -> None:
  environment = os.environ | {"EGIC_CACHE_DIR": f"{folder}/{cache}"}
  command = [*_EGIC, *arguments, "--model", f"{folder}/small.safetensors"]
  subprocess.run(
    command, check=True, env=environment, stdout=subprocess.DEVNULL
  )


def _range_decoding(picture: str) -> dict[str, float]:
  """Milliseconds to decode as many symbols as `full` has, every one coded.

  In ten groups, as slices are, under tables spread over all scales: the most
  that a picture can ask for.
  """
  del picture
  import numpy as np

  from egic_jax.bitstream import range_coder, tables
  from egic_jax.entropy import gaussian

  coding = range_coder.CodingTables(tables.gaussian_tables())
  rng = np.random.default_rng(0)
  groups, encoder = [], range_coder.Encoder()
  for _ in range(10):
    index = rng.integers(0, gaussian.NUM_SCALES, SYMBOLS // 10)
    scale = gaussian.scale_table()[index]
    symbols = np.rint(rng.normal(0, scale)).astype(np.int32)
    encoder.encode(symbols, index.astype(np.int32), coding)
    groups.append((index.astype(np.int32), symbols))
  data, times = encoder.get_bytes(), []
  for _ in range(26):
    start = time.perf_counter()
    decoder = range_coder.Decoder(data)
    decoded = [decoder.decode(index, coding) for index, _ in groups]
    times.append(time.perf_counter() - start)
  for found, (_, symbols) in zip(decoded, groups, strict=True):
    np.testing.assert_array_equal(found, symbols)
  return {"range decoding": 1000 * statistics.median(times[1:])}


_PARTS = {"processes": _processes, "range_decoding": _range_decoding}


if __name__ == "__main__":
  main()
