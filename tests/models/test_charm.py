"""Both networks of a slice at once, against one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.models import charm


def _case(dtype):
  """Layers of two networks, whose widths are no multiples of 16, and inputs."""
  rng = np.random.default_rng(0)
  widths = (24, 21, 10, 8)

  def normal(*shape):
    return jnp.asarray(rng.standard_normal(shape), dtype)

  networks = [
    [
      (normal(3, 3, before, after) / (9 * before) ** 0.5, normal(after))
      for before, after in zip(widths, widths[1:], strict=False)
    ]
    for _ in range(2)
  ]
  inputs = [normal(2, 4, 6, widths[0]) for _ in range(2)]
  return networks, inputs, [normal(2, 4, 6, widths[-1]) for _ in range(2)]


def _plain(networks, inputs):
  return [
    charm.apply_network(layers, x)
    for layers, x in zip(networks, inputs, strict=True)
  ]


def test_at_once_they_give_the_same_values_and_gradients(float64):
  networks, inputs, gradient = _case(jnp.float64)

  def at_once(networks, inputs):
    return charm.apply_networks(networks, inputs, jnp.float64)

  results = []
  for function in (_plain, at_once):
    out, pull = jax.vjp(function, networks, inputs)
    results.append(jax.tree.leaves((out, pull(gradient))))
  for plain, ours in zip(*results, strict=True):
    np.testing.assert_allclose(ours, plain, rtol=0, atol=1e-12)


def test_in_bfloat16_only_factors_are_rounded():
  networks, inputs, _ = _case(jnp.float32)
  found = charm.apply_networks(networks, inputs, jnp.bfloat16)
  for ours, plain in zip(found, _plain(networks, inputs), strict=True):
    assert ours.dtype == jnp.float32
    error = np.abs(ours - plain).max() / np.abs(plain).max()
    # Rounded to 8 bits, but for the sums.
    assert 1e-4 < error < 0.02


@pytest.mark.parametrize("factor_dtype", [None, jnp.bfloat16])
def test_parameters_are_the_same_either_way(factor_dtype):
  from egic_jax.models import presets

  config = presets.get_preset("tiny")
  module = charm.Charm(config, factor_dtype)
  latents = jnp.zeros((1, 2, 2, config.latent_channels))

  def init(key):
    def all_slices(module):
      support = ()
      for i in range(config.num_slices):
        mean, _ = module.slice_parameters(i, latents, latents, support)
        support = (*support, mean)

    return module.init(key, method=all_slices)["params"]

  shapes = jax.eval_shape(init, jax.random.key(0))
  kernel = shapes["scale_2"]["conv_1"]["kernel"]
  widths = charm.hidden_widths(2, config.slice_channels, config.max_support)
  assert kernel.shape == (3, 3, *widths) and kernel.dtype == jnp.float32
  assert set(shapes) == {
    f"{kind}_{i}" for kind in ("mean", "scale") for i in range(3)
  }
