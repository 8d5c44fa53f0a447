"""`egic aot`: what it prints, and mistakes in one line before it compiles."""

import importlib.metadata
import json
import pathlib

import jax
import pytest

from egic_jax.cli import main
from egic_jax.training import ahead_of_time, chips, collectives, tpu_topology

_GAN = str(pathlib.Path(__file__).resolve().parents[2] / "configs/tiny_gan.py")
_FITTING = ahead_of_time.Measurement(
  memory=ahead_of_time.Memory(
    arguments=2**30,
    outputs=2**29,
    aliased=2**29,
    temporaries=3 * 2**30,
    code=2**28,
  ),
  needed_bytes=17 * 2**28,
  flops=1.97e12,
  bytes_accessed=81.9e9,
  messages=(collectives.Collective("all-reduce", 1, 3, 5e6),),
  roofline=chips.Roofline(compute=0.01, memory=0.1, links=0.0),
  lower_seconds=2.0,
  compile_seconds=60.0,
  compile_cpu_seconds=30.0,
  compiler_options={"effort": -1.0},
)
_TOO_LARGE = ahead_of_time.Measurement(
  None, 20 * 2**30, 0.0, 0.0, (), None, 2.0, 60.0, 30.0, {}
)


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
  """One device of this machine in place of a slice, and no libtpu needed."""

  def open_slice(name):
    chip, _ = tpu_topology.parse_name(name)
    return tpu_topology.Slice(name, chip, tuple(jax.devices()[:1]))

  version = importlib.metadata.version
  monkeypatch.setattr(
    importlib.metadata,
    "version",
    lambda name: "1.2" if name == "libtpu" else version(name),
  )
  monkeypatch.setattr(tpu_topology, "prepare_environment", lambda: None)
  monkeypatch.setattr(tpu_topology, "check_libtpu", lambda: "1.2")
  monkeypatch.setattr(tpu_topology, "open_slice", open_slice)
  monkeypatch.delenv("EGIC_TRACEBACK", raising=False)


@pytest.fixture
def measured(monkeypatch):
  """What compiling gives, one after the other, and the programs it was for."""
  results, programs = [], []

  def measure(program, options):
    programs.append((program, options))
    return results.pop(0)

  monkeypatch.setattr(ahead_of_time, "measure", measure)
  return results, programs


def _run(*argv):
  return main.main(["aot", "--config", _GAN, *argv])


def test_two_slices(measured, capsys, tmp_path):
  results, programs = measured
  results += [_FITTING, _TOO_LARGE]
  file = tmp_path / "rows.json"
  assert (
    _run(
      *("--topology", "v5e:2x2", "--topology", "v4:2x2x1"),
      *("--batch-per-chip", "6", "--json", str(file), "--quick"),
      "model.compute_dtype=bfloat16",
    )
    == 0
  )
  captured = capsys.readouterr()
  for text in (
    "tiny_gan (stage2_gan, tiny, bfloat16) on v5e:2x2",
    "1, 6 crops of 128 x 128 each, 6 in all",
    "4.25 of 16 GiB a chip: fits",
    "temporaries 3.000",
    "1.970 TFLOP a chip",
    "3 all-reduce among 1: 5.0 MB",
    "100.00 ms a step (memory)",
    "in 60 s (30 s of all cores), traced in 2 s",
    "effort=-1.0",
    "20.00 of 32 GiB a chip: does not fit",
  ):
    assert text in captured.out
  head, *rows = captured.out.rstrip().splitlines()[-3:]
  assert head.split()[:4] == ["configuration", "type", "slice", "a"]
  assert [row.split()[2] for row in rows] == ["v5e:2x2", "v4:2x2x1"]
  assert "compiling" in captured.err
  first, second = json.loads(file.read_text())
  assert (first["fits"], second["fits"]) == (True, False)
  assert first["memory_bytes"]["peak"] == first["needed_bytes"] == 17 * 2**28
  assert first["roofline_seconds"]["bound"] == "memory"
  assert second["memory_bytes"] is None
  (program, options), _ = programs
  assert program.config.data.batch_size == 6
  assert options == ahead_of_time.QUICK


def test_what_is_done_is_kept_when_the_next_fails(measured, tmp_path):
  results, _ = measured
  results += [_FITTING]  # Then there is none, which raises.
  file = tmp_path / "rows.json"
  topologies = ("--topology", "v5e:2x2", "--topology", "v4:2x2x1")
  assert _run(*topologies, "--json", str(file)) == 1
  assert len(json.loads(file.read_text())) == 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--topology", "v9:2x2"), "v9:2x2: no such TPU slice; v4"),
    (("--topology", "v5e:2x2", "--topology", "v5e"), "v5e: no such TPU slice"),
    (("--topology", "v5e:2x2", "model.preset=huge"), "'huge'"),
    (("--topology", "v5e:2x2", "--json", "/no/such/rows.json"), "/no/such"),
    (
      ("--topology", "v5e:2x2", "data.batch_size=3"),
      "on v5e:2x2: data.batch_size=3: must be",
    ),
    (("--topology", "v5e:2x2", "data.batch_size=3"), "--batch-per-chip N"),
    (
      ("--topology", "v5e:2x2", "data.name=image_label_folder"),
      "--num-classes N",
    ),
  ],
)
def test_a_mistake_is_one_line(measured, capsys, arguments, message):
  assert _run(*arguments) == 1
  error = capsys.readouterr().err
  assert error.startswith("egic aot: error: ") and message in error
  assert len(error.splitlines()) == 1 and "unexpected" not in error
  # Also that of the second slice is found before the first is compiled.
  assert measured[1] == []


def test_a_missing_libtpu_is_one_line(monkeypatch, capsys):
  def missing():
    raise ValueError("libtpu is not installed: pip install 'libtpu==0.0.*'")

  monkeypatch.setattr(tpu_topology, "check_libtpu", missing)
  assert _run("--topology", "v5e:2x2") == 1
  assert "egic aot: error: libtpu is not installed" in capsys.readouterr().err


def test_no_crops_a_chip():
  with pytest.raises(SystemExit) as caught:
    _run("--topology", "v5e:2x2", "--batch-per-chip", "0")
  assert caught.value.code == 2
