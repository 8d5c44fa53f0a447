"""LPIPS equals that of its authors' network, for stand-ins of its weights."""

import functools

import jax
import jax.numpy as jnp
import lpips_arrays
import numpy as np
import pytest
import torch_files

from egic_jax.interop import lpips_weights
from egic_jax.losses import perceptual


@pytest.fixture(scope="module")
def pairs():
  with np.load(lpips_arrays.FIXTURES / "lpips.npz") as archive:
    return dict(archive)


@pytest.fixture(scope="module")
def alex():
  return lpips_weights.from_arrays(lpips_arrays.whole("alex"), "alex")


def _images(pairs):
  return [jnp.asarray(pairs[k], jnp.float32) / 255.0 for k in ("a", "b")]


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_equals_the_authors_network_from_its_files(network, pairs, tmp_path):
  classifier, heads = lpips_arrays.files(network)
  torch_files.write(tmp_path / "classifier.pth", classifier)
  torch_files.write(tmp_path / "heads.pth", heads)
  weights = lpips_weights.load(
    [tmp_path / "classifier.pth", tmp_path / "heads.pth"], network
  )
  ours = jax.jit(functools.partial(perceptual.lpips, network_name=network))(
    weights.params, *_images(pairs)
  )
  np.testing.assert_allclose(ours, pairs[f"lpips_{network}"], rtol=1e-4)


def test_symmetric_and_zero_for_equal_images(alex, pairs):
  distance = jax.jit(functools.partial(perceptual.lpips, alex))
  a, b = _images(pairs)
  np.testing.assert_array_equal(distance(a, a), [0, 0])
  np.testing.assert_allclose(distance(a, b), distance(b, a), rtol=1e-5)


def test_bfloat16_is_close(alex, pairs):
  a, b = _images(pairs)
  rough = perceptual.lpips(alex, a, b, dtype=jnp.bfloat16)
  assert rough.dtype == jnp.float32
  np.testing.assert_allclose(rough, pairs["lpips_alex"], rtol=0.1)


def test_gradient_is_finite_where_features_vanish():
  """A length of zero has no derivative; that of units switched off is 0."""
  features = jnp.array([[0.0, 0.0], [3.0, 4.0]])
  value, gradient = jax.value_and_grad(
    lambda x: perceptual._normalise(x).sum()
  )(features)
  assert value == pytest.approx(7 / 5)
  np.testing.assert_array_equal(gradient[0], 0)
  assert np.isfinite(gradient).all() and np.any(gradient[1])


def test_wrong_arguments_are_named(alex):
  small = jnp.zeros((1, 31, 64, 3))
  with pytest.raises(ValueError, match="31x64"):
    perceptual.lpips(alex, small, small)
  with pytest.raises(ValueError, match="alex, vgg"):
    perceptual.param_shapes("squeeze")
