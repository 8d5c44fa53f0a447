"""What our kernels take of a GPU's processor, compiled without one.

    python -m venv cuda && cuda/bin/pip install '.[train]' 'jax[cuda13]'
    cuda/bin/pip install nvidia-cuda-nvdisasm
    cuda/bin/python benchmarks/gpu_registers.py

Registers of a thread, and those that spill to memory; shared memory of a program;
how many programs, of how many threads, a processor of an H200 then has at a
time: the more, the better the waiting for memory is hidden; and, where there is
nvdisasm, the instructions of a thread: of a round of its longest loop, or of all
where it has none. A processor starts those of four warps in a cycle, at best.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

_FLAGS = (
  "--xla_dump_hlo_as_text",
  "--xla_gpu_dump_llvmir",
  "--xla_dump_emitter_re=.*",
  "--xla_dump_hlo_pass_re=none",
)
# Of a processor of compute capability 9.0.
_REGISTERS, _THREADS, _SHARED = 65536, 2048, 233472
# What the system takes of the shared memory for each program.
_SHARED_EACH = 1024
_ARCHITECTURE = "sm_90a"


def compile_cases(batch_size: int) -> None:
  """Compiles each kernel with its gradient; the dump is what is wanted of it."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  import described_gpu
  import jax
  import jax.numpy as jnp
  from jax.sharding import SingleDeviceSharding

  where = SingleDeviceSharding(described_gpu.devices()[0])
  described_gpu.pretend_kernels(True)
  import gpu_kernels

  from egic_jax.ops import kernel_trial

  for name, case in gpu_kernels.cases(batch_size):
    function = kernel_trial.with_gradient(case.fused)
    function.__name__ = re.sub(r"\W", "_", name)
    args = [
      jax.ShapeDtypeStruct(s, jnp.bfloat16 if len(s) > 3 else jnp.float32)
      for s in case.shapes
    ]
    jitted = jax.jit(function, in_shardings=where, out_shardings=where)
    jitted.lower(*args).compile()


def rows(
  folder: pathlib.Path, ptxas: pathlib.Path, nvdisasm: pathlib.Path | None
):
  """Yields rows: case, kernel, registers, spilled bytes, shared bytes, threads.

  And instructions, or "-".
  """
  cubin = folder / "kernel.cubin"
  for path in sorted(folder.glob("*.ptx")):
    text = path.read_text()
    entry = re.search(r"\.entry (\w+)", text)
    if not entry or not re.match("mlp|layer_norm|window", entry[1]):
      continue
    stem = re.match(r"(module_\d+)\.jit_(\w+?)\.", path.name)
    thunks = next(folder.glob(f"{stem[1]}.*thunk_sequence.txt")).read_text()
    shared = re.search(rf"\] {entry[1]} grid.* shared_memory: (\d+)", thunks)
    said = subprocess.run(
      [ptxas, "-v", f"-arch={_ARCHITECTURE}", path, "-o", cubin],
      capture_output=True,
      text=True,
      check=True,
    ).stderr
    yield (
      stem[2],
      entry[1],
      int(re.search(r"Used (\d+) registers", said)[1]),
      int(re.search(r"(\d+) bytes spill stores", said)[1]),
      int(shared[1]),
      int(re.search(r"\.reqntid (\d+)", text)[1]),
      instructions(nvdisasm, cubin) if nvdisasm else "-",
    )


def instructions(nvdisasm: pathlib.Path, cubin: pathlib.Path) -> int:
  """Those of a kernel's longest loop, or of the whole if it has none."""
  said = subprocess.run(
    [nvdisasm, cubin], capture_output=True, text=True, check=True
  ).stdout
  count, labels, longest = 0, {}, 0
  for line in said.splitlines():
    if label := re.match(r"(\.L_x_\d+):", line):
      labels[label[1]] = count
    elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
      count += 1
      back = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction[1])
      # Of the last one, which jumps to itself, there is one instruction.
      if back and count - labels.get(back[1], count) > 1:
        longest = max(longest, count - labels[back[1]])
  return longest or count


def _report(found):
  print(
    "| map | kernel | registers | spilled | shared memory | threads | programs |"
    " instructions |"
  )
  print("|---|---|---|---|---|---|---|---|")
  for case, kernel, registers, spilled, shared, threads, count in found:
    # Registers are given out by eights.
    programs = min(
      _REGISTERS // (-(-registers // 8) * 8 * threads),
      _SHARED // (shared + _SHARED_EACH),
      _THREADS // threads,
    )
    print(
      f"| {case} | {kernel} | {registers} | {spilled} | {shared} | {threads} |"
      f" {programs} | {count} |"
    )


def main() -> None:
  """Prints a row for each kernel."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=16)
  arguments = parser.parse_args()
  installed = pathlib.Path(sys.prefix)
  ptxas = next(installed.rglob("nvidia/*/bin/ptxas"), None)
  if ptxas is None:
    sys.exit("no ptxas: pip install 'jax[cuda13]'")
  nvdisasm = next(installed.rglob("nvidia/*/bin/nvdisasm"), None)
  with tempfile.TemporaryDirectory() as folder:
    os.environ["XLA_FLAGS"] = " ".join((f"--xla_dump_to={folder}", *_FLAGS))
    compile_cases(arguments.batch)
    _report(rows(pathlib.Path(folder), ptxas, nvdisasm))


if __name__ == "__main__":
  main()
