"""The micro codec and its parameters, shared by the tests of training."""

import jax
import micro_training
import pytest

from egic_jax.models import codec as codec_lib


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
  """These tests compile much and compute little."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def codec_config():
  return micro_training.micro_config()


@pytest.fixture(scope="session")
def codec(codec_config):
  return codec_lib.Codec(codec_config)


@pytest.fixture(scope="session")
def params(codec_config):
  return {"codec": codec_lib.init_codec_params(codec_config, 1)}


@pytest.fixture
def run_arguments():
  return micro_training.run_arguments()
