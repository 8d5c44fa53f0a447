import numpy as np
import pytest

from egic_jax.bitstream import quality


@pytest.mark.parametrize("levels", [2, 3, 4, 8])
def test_every_code_comes_back(levels):
  values = [quality.of_code(code, levels) for code in quality.CODES]
  assert values[0] == 1 and values[-1] == levels
  assert all(isinstance(value, np.float32) for value in values)
  steps = np.diff(np.array(values, np.float64))
  np.testing.assert_allclose(steps, (levels - 1) / 254, rtol=1e-4)
  for code, value in zip(quality.CODES, values, strict=True):
    assert quality.to_code(float(value), levels) == code


def test_values_that_files_depend_on():
  # Part of the file format, to the last bit.
  assert {c: float(quality.of_code(c, 8)).hex() for c in (2, 100, 254)} == {
    2: "0x1.070e1c0000000p+0",
    100: "0x1.dd3a740000000p+1",
    254: "0x1.fe3c780000000p+2",
  }


def test_nearest_and_default():
  assert quality.to_code(4.49, 8) == 128 and quality.to_code(4.52, 8) == 129
  assert quality.default(8) == 4.0
  assert quality.to_code(None, 8) == quality.to_code(4.0, 8) == 110
  assert quality.to_code(None, 2) == 1
  assert quality.to_code(None, 0) is None


@pytest.mark.parametrize("value", [0.999, 8.001, -1, np.nan, np.inf])
def test_outside_the_range(value):
  with pytest.raises(ValueError, match=r"must lie in \[1, 8\]"):
    quality.to_code(value, 8)


def test_models_of_one_rate_have_none():
  with pytest.raises(ValueError, match="one rate only"):
    quality.to_code(1.0, 0)
