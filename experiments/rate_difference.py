"""How much more or less rate a codec takes than another at equal quality."""

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np

Points = Sequence[Mapping[str, float]]


def rate_difference(anchor: Points, test: Points, metric: str) -> float | None:
  """Bjontegaard delta rate: percent, below 0 where `test` takes less.

  The mean difference of the logarithms of the rates over the qualities that both
  curves reach, piecewise cubic (PCHIP) between their points, by the package
  `bjontegaard`. Of a test with one point only, the difference there.

  Args:
    anchor: points of the curve to compare with, at least two.
    test: points of the curve in question, at least one.
    metric: what is quality in a point, beside its "bpp"; more is better.

  Returns:
    The difference, or None where the curves have no quality in common or one of
    them does not rise.
  """
  rates, qualities = _curve(anchor, metric)
  test_rates, test_qualities = _curve(test, metric)
  if rates is None or test_rates is None:
    return None
  if len(test_rates) == 1:
    return _at_one_point(rates, qualities, test_rates[0], test_qualities[0])
  # Imports matplotlib.
  import bjontegaard

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    found = bjontegaard.bd_rate(
      rates,
      qualities,
      test_rates,
      test_qualities,
      method="pchip",
      require_matching_points=False,
    )
  return float(found) if math.isfinite(found) else None


def common_range(
  anchor: Points, test: Points, metric: str
) -> tuple[float, float]:
  """The lowest and the highest quality that both curves reach."""
  ranges = [[p[metric] for p in points] for points in (anchor, test)]
  return max(map(min, ranges)), min(map(max, ranges))


def _curve(points: Points, metric: str):
  ordered = sorted(points, key=lambda point: point["bpp"])
  rates = np.array([point["bpp"] for point in ordered])
  qualities = np.array([point[metric] for point in ordered])
  rises = np.all(np.isfinite(qualities)) and np.all(np.diff(qualities) > 0)
  return (rates, qualities) if rises else (None, None)


def _at_one_point(rates, qualities, rate, quality) -> float | None:
  from scipy import interpolate

  if len(rates) < 2 or not qualities[0] <= quality <= qualities[-1]:
    return None
  anchor = interpolate.PchipInterpolator(qualities, np.log(rates))(quality)
  return 100 * (rate / math.exp(anchor) - 1)
