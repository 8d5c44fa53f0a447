"""Settings for every test: CPU, and compiled programs kept between runs."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from egic_jax import runtime

runtime.configure()


@pytest.fixture(scope="session")
def photographs() -> pathlib.Path:
  """Folder of photograph sets; tests that need it are skipped without it."""
  here = pathlib.Path(__file__).resolve()
  folder = pathlib.Path(
    os.environ.get("EGIC_DATA", here.parents[2] / "shared" / "data")
  )
  if not (folder / "kodak").is_dir():
    pytest.skip("no photographs: set EGIC_DATA to a folder of image sets")
  return folder


@pytest.fixture
def float64():
  """Doubles, for comparing two formulations to rounding error."""
  jax.config.update("jax_enable_x64", True)
  yield
  jax.config.update("jax_enable_x64", False)
