"""OASIS-C: variants, calibration, and that it learns a segmentation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from egic_jax.losses import segmentation
from egic_jax.models.discriminators import oasis_c, presets

CONFIG = presets.DiscriminatorConfig(
  encoder_widths=(4, 8),
  decoder_widths=(8, 6),
  num_classes=3,
  latent_channels=5,
  embedding_width=6,
)


def _variant(**changes):
  return dataclasses.replace(CONFIG, **changes)


@functools.cache
def _jitted(config, dtype=jnp.float32):
  return jax.jit(functools.partial(oasis_c.segment, config, dtype=dtype))


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  image = rng.uniform(size=(2, 32, 48, 3)).astype(np.float32)
  latent = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
  return image, latent


@pytest.mark.parametrize(
  "normalization,conditioning",
  [
    ("weight", "projection"),
    ("weight", "concatenation"),
    ("weight", "none"),
    ("spectral", "projection"),
    ("none", "concatenation"),
  ],
)
def test_variants(normalization, conditioning, batch):
  config = _variant(normalization=normalization, conditioning=conditioning)
  params = oasis_c.init_params(config, 0)
  state = oasis_c.init_state(config, params, 0)
  logits, moved = _jitted(config)(params, state, *batch)
  assert logits.shape == (2, 32, 48, 5) and logits.dtype == jnp.float32
  assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, state)
  assert (state == {}) == (normalization != "spectral")
  assert ("embedding" in params) == (conditioning != "none")
  assert ("scale" in params["up_0"]["conv1"]) == (normalization == "weight")
  plain, still = _jitted(config)(params, state, batch[0])
  # Without the latent: its embedding counts as zero and its layer rests.
  assert jax.tree.map(jnp.shape, still) == jax.tree.map(jnp.shape, state)
  assert np.allclose(plain, logits) == (conditioning == "none")


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_no_gradient_reaches_the_latent(conditioning, batch):
  config = _variant(conditioning=conditioning)
  params = oasis_c.init_params(config, 0)

  def loss(image, latent):
    return jnp.sum(oasis_c.segment(config, params, {}, image, latent)[0] ** 2)

  of_image, of_latent = jax.jit(jax.grad(loss, argnums=(0, 1)))(*batch)
  assert np.any(of_image) and not np.any(of_latent)


def test_projection_is_one_map_added_to_every_logit(batch):
  params = oasis_c.init_params(CONFIG, 0)
  image, latent = batch
  apply = _jitted(CONFIG)
  added = apply(params, {}, image, latent)[0] - apply(params, {}, image)[0]
  np.testing.assert_allclose(added, added[..., :1] * np.ones(5), atol=1e-2)
  assert np.std(added) > 1
  # An element of the latent, seen through a 3x3 convolution, reaches 48 x 48
  # pixels and no further.
  moved = latent.copy()
  moved[0, 0, 0] += 1
  changed = (
    apply(params, {}, image, moved)[0] - apply(params, {}, image, latent)[0]
  )
  assert np.any(changed[0, :32, :32]) and not np.any(changed[0, :, 32:])
  assert not np.any(changed[1])


def test_input_is_scaled(batch):
  image, latent = batch
  params = oasis_c.init_params(CONFIG, 0)
  signed = _variant(input_scale=2.0, input_offset=-1.0)
  there = _jitted(CONFIG)(params, {}, (2 * image - 1) / 255.0, latent)[0]
  here = _jitted(signed)(params, {}, image, latent)[0]
  np.testing.assert_allclose(there, here, rtol=1e-3, atol=1e-4)


def test_bfloat16_is_close(batch):
  params = oasis_c.calibrate(CONFIG, oasis_c.init_params(CONFIG, 0), *batch)
  exact, _ = _jitted(CONFIG)(params, {}, *batch)
  rough, _ = _jitted(CONFIG, jnp.bfloat16)(params, {}, *batch)
  assert rough.dtype == jnp.float32
  error = np.std(rough - exact) / np.std(exact)
  assert 1e-4 < error < 0.05


def test_calibration_settles_every_layer(batch):
  """Outputs of each convolution then have zero mean and unit variance."""
  params = oasis_c.init_params(CONFIG, 0)
  before = jax.tree.map(np.array, params)
  image, latent = batch
  settled = jax.jit(functools.partial(oasis_c.calibrate, CONFIG))(
    params, image, latent
  )
  jax.tree.map(np.testing.assert_array_equal, params, before)  # Pure.
  again = oasis_c.calibrate(CONFIG, settled, image, latent)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
    settled,
    again,
  )
  np.testing.assert_array_equal(
    settled["logits"]["kernel"], params["logits"]["kernel"]
  )
  # Calibrating again, which has changed nothing: else some are averaged.
  _, seen = oasis_c.OasisC(CONFIG, calibrating=True).apply(
    {"params": settled},
    image,
    latent,
    mutable=["params", "intermediates"],
    capture_intermediates=lambda module, method: (
      (type(module).__name__, method) == ("NormalizedConv", "__call__")
    ),
  )
  for name, block in seen["intermediates"].items():
    if name.startswith("down"):  # Statistics are of what is not averaged yet.
      sizes = {x.shape[1:3] for x in jax.tree.leaves(block)}
      assert len(sizes) == 1
  outputs = jax.tree.leaves(seen["intermediates"])
  assert len(outputs) == 12  # Blocks of 3, 3, 2 and 3, and the embedding.
  for output in outputs:
    np.testing.assert_allclose(output.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(output.std((0, 1, 2)), 1, rtol=1e-3)


def test_calibration_without_latent_leaves_its_layer(batch):
  params = oasis_c.init_params(CONFIG, 0)
  settled = oasis_c.calibrate(CONFIG, params, batch[0])
  assert jax.tree.structure(settled) == jax.tree.structure(params)
  jax.tree.map(
    np.testing.assert_array_equal, settled["embedding"], params["embedding"]
  )
  assert np.any(settled["down_0"]["conv1"]["scale"] != 1)


@pytest.mark.parametrize("normalization", ["spectral", "none"])
def test_calibration_is_for_weight_norm(normalization, batch):
  config = _variant(normalization=normalization)
  with pytest.raises(ValueError, match=normalization):
    oasis_c.calibrate(config, oasis_c.init_params(config, 0), *batch)


def test_spectral_state_moves_towards_the_singular_vector(batch):
  config = _variant(normalization="spectral")
  params = oasis_c.init_params(config, 0)
  state = jax.tree.map(
    lambda u: np.eye(1, *u.shape, dtype=np.float32)[0],
    oasis_c.init_state(config, params, 0),
  )
  start = state
  for _ in range(100):
    _, state = _jitted(config)(params, state, *batch)
  kernel = params["up_0"]["conv1"]["kernel"].reshape(-1, 8)
  right = np.linalg.svd(kernel, full_matrices=False)[2][0]
  settled = state["up_0"]["conv1"]["u"]
  assert abs(settled @ right) == pytest.approx(1, abs=1e-3)
  assert abs(start["up_0"]["conv1"]["u"] @ right) < 0.9
  drawn = oasis_c.init_state(config, params, 0)["up_0"]["conv1"]["u"]
  assert abs(drawn @ right) > 0.95


def test_spectral_norm_does_not_see_the_scale_of_kernels(batch):
  config = _variant(normalization="spectral")
  params = oasis_c.init_params(config, 0)
  state = oasis_c.init_state(config, params, 0)
  larger = dict(params)
  larger["down_1"] = jax.tree.map(lambda p: 7 * p, params["down_1"])
  np.testing.assert_allclose(
    _jitted(config)(params, state, *batch)[0],
    _jitted(config)(larger, state, *batch)[0],
    rtol=1e-3,
    atol=1e-3,
  )


def test_predicted_labels():
  logits = jnp.array([[9.0, 1.0, 2.0, 5.0], [9.0, 3.0, 2.0, 1.0]])
  np.testing.assert_array_equal(oasis_c.predicted_labels(logits), [2, 1])
  np.testing.assert_array_equal(
    oasis_c.predicted_labels(logits, with_fake=True), [3, 1]
  )


def test_wrong_arguments_are_named(batch):
  params = oasis_c.init_params(CONFIG, 0)
  image, latent = batch
  with pytest.raises(ValueError, match="image is 32x40.*multiples of 16"):
    oasis_c.segment(CONFIG, params, {}, image[:, :, :40], latent)
  with pytest.raises(ValueError, match=r"latent has the shape \(2, 2, 2, 5\)"):
    oasis_c.segment(CONFIG, params, {}, image, latent[:, :, :2])


def test_learns_to_segment(batch):
  """Three colours are three classes; void is not asked for."""
  rng = np.random.default_rng(1)
  labels = rng.integers(0, 4, (4, 4, 4)).repeat(8, 1).repeat(8, 2)
  colours = rng.uniform(size=(4, 3))
  image = (colours[labels] + rng.normal(0, 0.02, (4, 32, 32, 3))).astype("f4")
  params = oasis_c.calibrate(CONFIG, oasis_c.init_params(CONFIG, 0), image)
  optimizer = optax.adam(1e-2)

  def loss(params):
    logits, _ = oasis_c.segment(CONFIG, params, {}, image)
    return segmentation.cross_entropy(logits, labels).mean(), logits

  @jax.jit
  def step(params, state):
    (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(grads, state)
    return optax.apply_updates(params, updates), state, value, logits

  state, values = optimizer.init(params), []
  for _ in range(60):
    params, state, value, logits = step(params, state)
    values.append(float(value))
  right = oasis_c.predicted_labels(logits)[labels > 0] == labels[labels > 0]
  assert values[-1] < 0.3 * values[0] and right.mean() > 0.9
