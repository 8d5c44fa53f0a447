"""Packaging: `pip install .`, with extras for what not everyone needs."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$', (HERE / "egic_jax/__init__.py").read_text(), re.M
).group(1)

# Compressing and decompressing.
CORE = [
  "chex>=0.1.90",
  "constriction>=0.4.2",
  "flax>=0.12",
  "jax>=0.10",
  "numpy>=2.0",
  "pillow>=11.3",
  "safetensors>=0.5",
  "scipy>=1.13",
]
# Reading and building data sets.
DATA = [
  "absl-py>=2.0",
  "grain>=0.2.15",
  "importlib_resources>=6.0",  # tensorflow-datasets needs it, undeclared.
  "tensorflow-datasets>=4.9.9",
  "tqdm>=4.60",
]
# Training, and reading work directories.
TRAIN = DATA + [
  "clu>=0.0.12",
  "ml-collections>=1.0",
  "optax>=0.2.5",
  "orbax-checkpoint>=0.11.30",
  "tensorboardX>=2.6.4",
]
# `egic aot`: the TPU compiler that goes with the installed jax.
TPU_AOT = TRAIN + ["jax[tpu]>=0.10"]
TEST = ["hypothesis>=6.100", "pytest>=8.0", "ruff>=0.9"]
# Studies that compare with classical codecs, and draw.
COMPARISON = ["bjontegaard>=1.3", "matplotlib>=3.9", "pillow-heif>=1.0"]
# The photograph of the quick start.
DEMO = ["scikit-image>=0.25"]

setuptools.setup(
  name="egic_jax",
  version=VERSION,
  description="EGIC: generative image compression in JAX",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["egic_jax", "egic_jax.*"]),
  package_data={"egic_jax.shipped": ["*.safetensors", "default.txt"]},
  install_requires=CORE,
  extras_require={
    "data": DATA,
    "train": TRAIN,
    "tpu-aot": TPU_AOT,
    "evaluation": [],  # The metrics need nothing beyond the core.
    "comparison": COMPARISON,
    "demo": DEMO,
    "test": TRAIN + TEST + DEMO,
  },
  entry_points={"console_scripts": ["egic = egic_jax.cli.main:main"]},
)
