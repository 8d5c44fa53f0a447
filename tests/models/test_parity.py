"""The full-size network is the official one, intermediate by intermediate."""

import functools

import jax
import numpy as np
import official_weights
import pytest

from egic_jax.entropy import gaussian
from egic_jax.interop import official
from egic_jax.models import codec, orp, presets, slice_loop

CONFIG = presets.get_preset("full")
TOLERANCE = 1e-4  # Of each intermediate's standard deviation.
UNDECIDED = 1e-3  # Closer to a rounding boundary either symbol will do.


@pytest.fixture(scope="module")
def fixture():
  with np.load(official_weights.FIXTURES / "parity_codec.npz") as archive:
    return dict(archive)


@jax.jit
def _forward(params, image, y_hat):
  """Every intermediate; slices see the official y_hat of those before.

  One symbol of the fixture lies 2e-7 from a rounding boundary, and all later
  slices depend on how it falls.
  """
  model = codec.Codec(CONFIG)
  apply = functools.partial(model.apply, {"params": params["codec"]})
  out = {"y": apply(image, method="analysis")}
  out["z"] = apply(out["y"], method="hyper_analysis")
  out["z_hat"] = jax.numpy.round(out["z"])
  out["z_bits"] = apply(out["z_hat"], method="z_bits")
  size = CONFIG.slice_channels
  seen = {"mu": [], "scale_index": [], "symbols": [], "y_bits": []}

  def visit(i, mean, index):
    own = slice(i * size, (i + 1) * size)
    official_symbols = jax.numpy.round(y_hat[..., own] - mean)
    bits = gaussian.bits(official_symbols, index).sum((1, 2, 3))
    for name, value in (
      ("mu", mean),
      ("scale_index", index),
      ("symbols", jax.numpy.round(out["y"][..., own] - mean)),
      ("y_bits", bits),
    ):
      seen[name].append(value)
    return y_hat[..., own]

  slice_loop.visit_slices(
    functools.partial(apply, method="slice_parameters"),
    visit,
    *apply(out["z_hat"], method="hyper_synthesis"),
    CONFIG.num_slices,
  )
  bits = jax.numpy.stack(seen.pop("y_bits"))
  out |= {k: jax.numpy.concatenate(v, -1) for k, v in seen.items()}
  features = apply(y_hat, method="synthesis_features")
  x_gan = apply(features, method="synthesis_last_stage")
  x_mse = orp.OrpHead(CONFIG).apply({"params": params["orp"]}, features)
  out |= {"y_bits": bits, "x_hat_stride4": x_gan}
  for alpha in (0.0, 0.5, 1.0):
    mixed = orp.interpolate(x_gan, x_mse, alpha)
    out[f"orp_x_hat_alpha_{alpha}_stride4"] = mixed
  out["orp_x_hat_mse_stride4"] = x_mse
  return {
    k: v[:, ::4, ::4] * 255.0 if k.endswith("stride4") else v
    for k, v in out.items()
  }


@pytest.fixture(scope="module")
def ours(fixture):
  params = official.from_official(official_weights.weights("orp"), CONFIG)
  image = fixture["x"][None].astype(np.float32) / 255.0
  return jax.device_get(_forward(params, image, fixture["y_hat"]))


@pytest.mark.parametrize(
  "name",
  [
    "y",
    "z",
    "z_hat",
    "mu",
    "scale_index",
    "orp_x_hat_alpha_0.0_stride4",
    "orp_x_hat_alpha_0.5_stride4",
    "orp_x_hat_alpha_1.0_stride4",
    "orp_x_hat_mse_stride4",
    "x_hat_stride4",
  ],
)
def test_intermediate_equals_the_official_one(name, fixture, ours):
  expected = fixture[name].astype(np.float32)
  assert ours[name].shape == expected.shape
  deviation = np.abs(ours[name] - expected).max() / expected.std()
  assert deviation < TOLERANCE


@pytest.mark.parametrize("name", ["z_bits", "y_bits"])
def test_bits_equal_the_official_ones(name, fixture, ours):
  np.testing.assert_allclose(ours[name], fixture[name], rtol=1e-5)


def test_symbols_equal_the_official_ones(fixture, ours):
  residual = fixture["y"] - fixture["mu"]
  expected = np.round(fixture["y_hat"] - fixture["mu"])
  decided = np.abs(residual - np.floor(residual) - 0.5) > UNDECIDED
  assert decided.mean() > 0.99
  np.testing.assert_array_equal(ours["symbols"][decided], expected[decided])


def test_full_size_has_the_official_number_of_parameters():
  shapes = codec.param_shapes(CONFIG)
  count = {
    name: sum(leaf.size for leaf in jax.tree.leaves(part))
    for name, part in shapes.items()
  }
  assert count == {
    "analysis": 9_139_416,
    "synthesis": 9_139_300,
    "hyper_analysis": 3_065_892,
    "hyper_synthesis": 3_314_020,
    "charm": 7_892_236,
    "prior": 5_376,
  }
