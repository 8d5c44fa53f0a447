"""From nothing to a decompressed photograph, with one command.

    python3 experiments/quickstart/run.py

sets up an environment, trains the tiny codec on synthetic scenes for some
minutes on the CPU, compresses and decompresses a photograph, and puts the
original and what came back side by side. Everything it makes is in
runs/quickstart; run it again and it continues where it stopped.
"""

import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
WORKDIR = REPOSITORY / "runs" / "quickstart"


def main() -> int:
  """Sets up, then runs `show` inside the environment."""
  sys.path.insert(0, str(REPOSITORY / "experiments"))
  import environment

  python = environment.ensure()
  return subprocess.run(
    [python, __file__, "--inside", *sys.argv[1:]], cwd=REPOSITORY
  ).returncode


def show(overrides: list[str]) -> int:
  """Train, compress, decompress, compare; stops at the first that fails."""
  import numpy as np
  import skimage.data

  from egic_jax import images
  from egic_jax.evaluation import quality

  original, coded, back = (
    str((WORKDIR / name).relative_to(REPOSITORY))
    for name in ("photograph.png", "photograph.egic", "decompressed.png")
  )
  workdir = str(WORKDIR.relative_to(REPOSITORY))
  WORKDIR.mkdir(parents=True, exist_ok=True)
  images.write(original, skimage.data.coffee())
  for command in (
    ["train", "--config", "configs/tiny.py", "--workdir", workdir, *overrides],
    ["compress", original, "-o", coded, "-f", "--model", workdir],
    ["info", coded, "--model", workdir],
    ["decompress", coded, "-o", back, "-f", "--model", workdir],
  ):
    print("\n$ egic " + " ".join(command), flush=True)
    code = subprocess.run(
      [sys.executable, "-m", "egic_jax", *command]
    ).returncode
    if code:
      return code
  before, after = images.read(original), images.read(back)
  gap = np.full((before.shape[0], 8, 3), 255, np.uint8)
  picture = WORKDIR / "side_by_side.png"
  images.write(picture, np.concatenate([before, gap, after], axis=1))
  size = pathlib.Path(coded).stat().st_size
  pixels = before.shape[0] * before.shape[1]
  print(
    f"\n{size:,} bytes for {3 * pixels:,}: {8 * size / pixels:.3f} bpp,"
    f" PSNR {quality.psnr(before, after):.2f} dB\nlook at"
    f" {picture.relative_to(REPOSITORY)}"
  )
  return 0


if __name__ == "__main__":
  inside = sys.argv[1:2] == ["--inside"]
  sys.exit(show(sys.argv[2:]) if inside else main())
