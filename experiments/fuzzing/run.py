"""Mutates .egic files and decodes them: nothing may crash, hang or be wrong.

    PYTHONPATH=. python experiments/fuzzing/run.py --count 100000

Takes the files and the model of tests/fixtures/vectors. Mutant k of a seed is
always the same file; half of them have their file checksum made right again, so
that the decoder sees them. Prints a table of outcomes, and every mutant that
should not be.
"""

import argparse
import collections
import json
import pathlib
import resource
import sys
import time

import mutations
import numpy as np

from egic_jax import runtime
from egic_jax.bitstream import codec, container, latents, model_file, programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "fixtures" / "vectors"
SLOW_SECONDS = 1.0
SAME = "decoded: the picture of the file it was made from"
RESIZED = "decoded: right symbols, another size within the padding"
RATED = "decoded: right symbols, another quality"
WRONG = "DECODED TO A WRONG PICTURE"
OTHER = "AN EXCEPTION THAT IS NO BitstreamError"
OUTCOMES = (
  "refused by the container (layout, checksum, sizes)",
  "refused: another model's fingerprint",
  "refused by range coder or slice loop",
  "refused by the checksum of symbols",
  SAME,
  RESIZED,
  RATED,
  WRONG,
  OTHER,
)


def outcome(image_codec, data: bytes, pictures: dict) -> str:
  """Decodes a mutant and says what became of it."""
  try:
    picture = image_codec.decode(data)
  except container.BitstreamError as error:
    message = str(error)
    if "\n" in message:
      return OTHER
    if message == latents.MISMATCH:
      return OUTCOMES[3]
    if message.startswith("the payload is damaged"):
      return OUTCOMES[2]
    return OUTCOMES[message.startswith("the file was made by model")]
  except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    return OTHER
  header = container.unpack(data)
  if header.symbol_checksum not in pictures:
    return WRONG
  expected, quality_code = pictures[header.symbol_checksum]
  # Nor does the checksum of symbols cover the quality, which takes any code.
  if header.quality_code != quality_code:
    return RATED
  if np.array_equal(picture, expected):
    return SAME
  height, width = np.minimum(picture.shape, expected.shape)[:2]
  same = np.array_equal(picture[:height, :width], expected[:height, :width])
  # It does not cover the size either.
  return RESIZED if same and picture.shape != expected.shape else WRONG


def compiled(config) -> int:
  """Number of programs compiled so far."""
  return sum(p._cache_size() for p in programs.programs(config))


class Tally:
  """What became of the mutants so far."""

  def __init__(self, first: int, seed: int):
    self._about = {"seed": seed, "first": first}
    self.done, self._seconds, self._slowest = 0, 0.0, 0.0
    self._counts, self._kinds = collections.Counter(), collections.Counter()
    self._slow = collections.Counter()
    self._begin, self._begin_peak = time.monotonic(), peak_memory()
    self._peak, self._growth = self._begin_peak, (0, "")

  @property
  def elapsed(self) -> float:
    """Seconds since the beginning."""
    return time.monotonic() - self._begin

  @property
  def bad(self) -> int:
    """Mutants that should not be."""
    return self._counts[WRONG] + self._counts[OTHER] + self._slow["processor"]

  def add(self, name, result, clock, processor, compiled_more: bool) -> bool:
    """Counts a mutant; returns whether it is one that should not be.

    Args:
      name: what mutant it is.
      result: one of OUTCOMES.
      clock, processor: seconds that it took.
      compiled_more: whether its size needed programs that were not there.
    """
    bad = self.bad
    self.done += 1
    self._seconds += processor
    self._counts[result] += 1
    kind = name.partition(" of ")[0].partition(", ")[2]
    self._kinds[f"{kind}: {result}"] += 1
    if compiled_more:
      self._slow["compiling"] += 1
    else:
      self._slowest = max(self._slowest, processor)
      self._slow["clock"] += clock > SLOW_SECONDS
      self._slow["processor"] += processor > SLOW_SECONDS
    now = peak_memory()
    self._growth = max(self._growth, (now - self._peak, name))
    self._peak = now
    return self.bad > bad

  def facts(self) -> dict:
    """Everything counted, by name."""
    return {
      **self._about,
      "mutants": self.done,
      "outcomes": {one: self._counts[one] for one in OUTCOMES},
      "more than 1 s of processor time": self._slow["processor"],
      "more than 1 s by the clock": self._slow["clock"],
      "compiled programs for a new size (not timed)": self._slow["compiling"],
      "longest processor time (s)": round(self._slowest, 3),
      "mean processor time (ms)": round(
        1000 * self._seconds / max(1, self.done), 2
      ),
      "peak memory before (MB)": self._begin_peak // 1024,
      "peak memory after (MB)": self._peak // 1024,
      "largest growth": f"{self._growth[0] // 1024} MB, {self._growth[1]}",
      "time (s)": round(self.elapsed),
      "kinds": dict(sorted(self._kinds.items())),
    }

  def print(self) -> None:
    """The table."""
    facts = self.facts()
    print("| outcome | mutants |\n|---|---|")
    for one, count in facts.pop("outcomes").items():
      print(f"| {one} | {count:,} |")
    print(f"| all | {self.done:,} |\n")
    facts.pop("kinds")
    for name, value in facts.items():
      print(f"{name}: {value}")


def peak_memory() -> int:
  """Of this process so far, in kilobytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--count", type=int, default=1000, help="of mutants")
  parser.add_argument("--first", type=int, default=0, help="number of mutant")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--version",
    type=int,
    default=container.VERSION,
    help="of the format, whose test vectors are mutated",
  )
  parser.add_argument(
    "--minutes", type=float, default=float("inf"), help="stop after them"
  )
  parser.add_argument("--keep", metavar="DIR", help="for mutants to look at")
  parser.add_argument("--json", metavar="FILE", help="write counts there")
  return parser.parse_args()


def main() -> int:
  args = parse_arguments()
  runtime.configure()
  folder = VECTORS / f"version_{args.version}"
  model = model_file.load_model(folder / "model.safetensors")
  image_codec = codec.ImageCodec.from_model(model)
  files = {p.stem: p.read_bytes() for p in sorted(folder.glob("*.egic"))}
  pictures = {
    header.symbol_checksum: (image_codec.decode(data), header.quality_code)
    for data in files.values()
    for header in [container.unpack(data)]
  }
  mutator = mutations.Mutator(files, args.seed)
  tally = Tally(args.first, args.seed)
  for k in range(args.first, args.first + args.count):
    if tally.elapsed > 60 * args.minutes:
      break
    kind, name, data = mutator(k)
    before = compiled(model.config)
    clock, processor = time.perf_counter(), time.process_time()
    result = outcome(image_codec, data, pictures)
    clock = time.perf_counter() - clock
    processor = time.process_time() - processor
    title = f"mutant {k}, {kind} of {name}"
    more = compiled(model.config) > before
    if tally.add(title, result, clock, processor, more):
      print(f"{title}: {result}, {processor:.2f} s", flush=True)
      if args.keep:
        pathlib.Path(args.keep).mkdir(parents=True, exist_ok=True)
        (pathlib.Path(args.keep) / f"{k}.egic").write_bytes(data)
    if tally.done % 1000 == 0:
      print(
        f"{tally.done} mutants, {tally.elapsed:.0f} s, {tally.bad} bad",
        file=sys.stderr,
        flush=True,
      )
      write(args.json, tally)
  write(args.json, tally)
  tally.print()
  return int(tally.bad > 0)


def write(path: str | None, tally: Tally) -> None:
  if path:
    pathlib.Path(path).write_text(json.dumps(tally.facts(), indent=1))


if __name__ == "__main__":
  sys.exit(main())
