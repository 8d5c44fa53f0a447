"""Batches of pictures of one size, in parts of what memory holds."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import jax

from egic_jax.bitstream import buckets, tiles
from egic_jax.models import presets

# Of the images that one call of a network takes: 3 GB for the largest model.
_PIXELS = 2**22


class Runner:
  """Does the same with each part of a batch, on accelerators with two at a time.

  An accelerator has nothing to do while the symbols of a slice are read or
  written, nor has the processor while networks run: of two parts, one can have
  the one and one the other.
  """

  def __init__(self, config: presets.CodecConfig):
    """For models of this size."""
    self._config = config
    self._known = set()

  def map(
    self,
    function: Callable[[slice, int], Any],
    name: Any,
    count: int,
    z_size: tuple[int, int],
  ) -> list[Any]:
    """What a function returns for each part, in order.

    Args:
      function: of a part and the length that all parts are filled up to. Must be
        safe in threads.
      name: of the programs that it runs. Before they are known to be compiled a
        part goes alone, so that two do not compile the same.
      count: pictures in all.
      z_size: rows and columns of z of each.
    """
    grid = buckets.latent_grid(*(min(n, tiles.LONGEST) for n in z_size))
    pixels = grid[0] * grid[1] * self._config.hyper_stride**2
    cuts = -(-count // max(1, _PIXELS // pixels))
    overlap = _overlap()
    if overlap:
      cuts = max(cuts, min(count, 2))
    length = -(-count // max(1, cuts))
    parts = [slice(k * length, (k + 1) * length) for k in range(cuts)]
    if not overlap:
      return [function(part, length) for part in parts]
    alone = 0 if (name, grid, length) in self._known else 1
    results = [function(part, length) for part in parts[:alone]]
    self._known.add((name, grid, length))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      results += pool.map(lambda part: function(part, length), parts[alone:])
    return results


def _overlap() -> bool:
  return jax.default_backend() != "cpu"
