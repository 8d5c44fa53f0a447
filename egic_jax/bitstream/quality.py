"""Quality on a model's scale, and the byte that stands for it in a file.

A model for several rates has L levels. Quality is any number from 1, the
smallest files, to L, the best pictures. Files have 255 of them, evenly spaced:
encoder and decoder both compute with the one that the code in the file means,
in the same double precision arithmetic, rounded to float32 once.
"""

import math

import numpy as np

from egic_jax.bitstream import container

CODES = range(1, container.MAX_QUALITY_CODE + 1)


def of_code(code: int, levels: int) -> np.float32:
  """The quality that a code means.

  Args:
    code: in `CODES`.
    levels: of the model, at least 2.

  Returns:
    A number in [1, levels].
  """
  return np.float32(1 + (levels - 1) * (code - 1) / (CODES[-1] - 1))


def to_code(quality: float | None, levels: int) -> int | None:
  """The code whose quality is nearest.

  Args:
    quality: in [1, levels]; None for the default: 4 of 8 levels, and in other
      models half their number.
    levels: of the model; 0 for a model of one rate, which has no quality.

  Returns:
    A code in `CODES`, or None for a model of one rate.

  Raises:
    ValueError: in one line, if the model has no such quality.
  """
  if not levels:
    if quality is None:
      return None
    raise ValueError(
      f"quality is {quality}, but this model has one rate only: leave it out"
    )
  if quality is None:
    quality = default(levels)
  # Written so that nan fails as well.
  if not 1 <= quality <= levels:
    raise ValueError(f"quality is {quality}; it must lie in [1, {levels}]")
  share = (quality - 1) / (levels - 1)
  return 1 + math.floor(share * (CODES[-1] - 1) + 0.5)


def default(levels: int) -> float:
  """The quality taken where none is asked for, in [1, levels]."""
  return levels / 2
