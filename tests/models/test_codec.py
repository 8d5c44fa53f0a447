"""Invariants of the codec at a size that compiles in seconds."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.models import (
  charm,
  codec,
  initialization,
  orp,
  presets,
  slice_loop,
  swin,
)
from egic_jax.ops import gpu_kernel

CONFIG = presets.CodecConfig(
  analysis_widths=(16, 16, 16, 32),
  analysis_depths=(2, 1, 1, 2),
  analysis_window=4,
  hyper_width=16,
  hyper_depths=(1, 1),
  num_slices=2,
  head_width=8,
  mlp_ratio=1,
)
MODEL = codec.Codec(CONFIG)
_ONE = gpu_kernel.ONE_DEVICE
_TWO = gpu_kernel.Devices(jax.sharding.AbstractMesh((2,), ("data",)))


@pytest.fixture(scope="module")
def params():
  return codec.init_codec_params(CONFIG, 0)


@pytest.fixture(scope="module")
def image():
  rng = np.random.default_rng(0)
  return rng.random((2, 64, 128, 3), dtype=np.float32)


@jax.jit
def _evaluate(params, image):
  return MODEL.apply({"params": params}, image)


@jax.jit
def _train_gradient(params, image, key):
  def loss(params):
    out = MODEL.apply({"params": params}, image, key)
    error = jnp.square(out.x_hat - image).mean()
    return (
      100 * error + out.y_bits.mean() * 1e-3 + out.z_bits.mean() * 1e-3,
      out,
    )

  return jax.grad(loss, has_aux=True)(params)


def test_shapes_and_bits(params, image):
  out = _evaluate(params, image)
  assert out.x_hat.shape == image.shape
  assert out.y.shape == out.y_hat.shape == (2, 4, 8, 32)
  assert out.mean.shape == out.scale_index.shape == (2, 4, 8, 32)
  assert out.z.shape == out.z_hat.shape == (2, 1, 2, 16)
  assert out.y_bits.shape == (2, 2) and out.z_bits.shape == (2,)
  assert (np.asarray(out.y_bits) > 0).all()
  np.testing.assert_array_equal(out.z_hat, np.round(out.z))
  symbols = np.asarray(out.y_hat - out.mean)
  np.testing.assert_allclose(symbols, np.round(symbols), atol=1e-5)


def test_a_batch_is_its_images_one_by_one(params, image):
  both = _evaluate(params, image)
  one = _evaluate(params, image[1:])
  np.testing.assert_allclose(both.x_hat[1:], one.x_hat, atol=1e-4)
  np.testing.assert_allclose(both.y_bits[1:], one.y_bits, rtol=1e-4)


def test_gradient_reaches_every_parameter_and_is_finite(params, image):
  gradient, out = _train_gradient(params, image, jax.random.key(1))
  zero = [
    jax.tree_util.keystr(path)
    for path, g in jax.tree_util.tree_leaves_with_path(gradient)
    if not (np.isfinite(g).all() and np.abs(g).max() > 0)
  ]
  assert not zero
  # Synthesis is fed with rounded latents in training as well.
  symbols = np.asarray(out.y_hat - out.mean)
  np.testing.assert_allclose(symbols, np.round(symbols), atol=1e-5)


def test_training_rate_depends_on_the_key_and_is_near_the_true_one(
  params, image
):
  _, first = _train_gradient(params, image, jax.random.key(1))
  _, again = _train_gradient(params, image, jax.random.key(1))
  _, other = _train_gradient(params, image, jax.random.key(2))
  np.testing.assert_array_equal(first.y_bits, again.y_bits)
  assert (np.asarray(first.y_bits) != np.asarray(other.y_bits)).all()
  rounded = np.asarray(_evaluate(params, image).y_bits)
  np.testing.assert_allclose(first.y_bits, rounded, rtol=0.2)


def test_what_was_added_to_complete_a_window_changes_nothing(params):
  """A map in a corner of a larger empty one attends to itself alone."""
  block_input = np.random.default_rng(0).standard_normal((1, 5, 6, 16))
  blocks = swin.SwinBlocks(2, 2, 4, 1)
  stage = params["analysis"]["stage_0"]
  run = jax.jit(lambda x: blocks.apply({"params": stage}, x))
  small = run(jnp.asarray(block_input, jnp.float32))
  assert small.shape == (1, 5, 6, 16) and np.isfinite(small).all()
  # The same map, where zeros complete the windows before normalisation would
  # have made something of them: only invisibility keeps these out.
  larger = np.zeros((1, 8, 8, 16), np.float32)
  larger[:, :5, :6] = block_input
  assert not np.allclose(run(larger)[:, :5, :6], small, atol=1e-3)


@pytest.mark.parametrize("valid", [None, (7, 6)])
def test_however_blocks_are_evaluated_they_give_the_same(
  params, float64, monkeypatch, valid
):
  # Two of the eight windows at a time.
  monkeypatch.setattr(swin, "_CHUNK_ELEMENTS", 2 * 4**2 * 16)
  rng = np.random.default_rng(0)
  x, weight = jnp.asarray(rng.standard_normal((2, 2, 8, 8, 16)))
  stage = jax.tree.map(
    lambda p: jnp.asarray(p, jnp.float64), params["analysis"]["stage_0"]
  )

  def run(*execution):
    blocks = swin.SwinBlocks(
      2, 2, 4, 1, jnp.float64, swin.Execution(*execution)
    )

    def loss(stage, x):
      y = blocks.apply({"params": stage}, x, valid)
      return (y * weight).sum(), y

    function = jax.value_and_grad(loss, (0, 1), has_aux=True)
    loops = str(jax.make_jaxpr(function)(stage, x)).count("scan[")
    return jax.jit(function)(stage, x), loops

  plain, no_loops = run()
  assert no_loops == 0
  for remat, chunked in [(True, False), (False, True), (True, True)]:
    other, loops = run(remat, chunked)
    # A loop forward and one backward, for each of two blocks.
    assert loops == 4 * chunked
    assert jax.tree.structure(plain) == jax.tree.structure(other)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11),
      plain,
      other,
    )


@pytest.mark.parametrize(
  "windows, elements, count",
  [
    (1536, 64 * 128, 32),  # Half of the resolution of 512 x 768, `full`.
    (24, 64 * 320, 1),
    (96, 64 * 256, 4),
    (97, 64 * 1024, 1),  # A prime number of them.
    (2, 1, 1),
  ],
)
def test_chunks_are_equal_and_of_about_one_size(windows, elements, count):
  assert swin._chunk_count(windows, elements) == count


def test_a_cpu_takes_chunks_where_they_help():
  of = swin.Execution.of_training
  assert swin.Execution.of_inference("cpu") == swin.Execution(chunked=True)
  assert swin.Execution.of_inference("tpu") == swin.Execution()
  assert of("cpu", _ONE, True) == swin.Execution(remat=True, chunked=True)
  remat = swin.Execution(remat=True)
  assert of("cpu", _TWO, True) == of("tpu", _ONE, True) == remat
  assert of("cpu", _ONE, False) == swin.Execution()


def test_gpus_have_kernels():
  of = swin.Execution.of_training
  by_kernels = swin.Execution(kernels=_ONE)
  assert swin.Execution.of_inference("gpu") == by_kernels
  assert of("gpu", _ONE, False) == by_kernels
  assert of("gpu", _TWO, False) == swin.Execution(kernels=_TWO)
  narrow = of("gpu", _ONE, False, jnp.bfloat16)
  assert narrow == swin.Execution(kernels=_ONE, entropy_dtype=jnp.bfloat16)
  assert swin.Execution.of_inference("gpu", jnp.bfloat16).entropy_dtype is None
  assert of("tpu", _TWO, False) == of("tpu", _ONE, False) == swin.Execution()


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("valid", [None, (7, 6)])
def test_blocks_by_kernels_give_the_same(monkeypatch, valid, remat):
  # Interpreted, in float64, which kernels are otherwise not asked for.
  interpreted = functools.partial(gpu_kernel.call, interpret=True)
  calls = []

  def call(*args, name, interpret, **options):
    calls.append(name)
    return interpreted(*args, name=name, **options)

  monkeypatch.setattr(gpu_kernel, "call", call)
  monkeypatch.setattr(gpu_kernel, "serves", lambda *_, **__: True)
  jax.clear_caches()
  rng = np.random.default_rng(0)
  x, weight = jnp.asarray(rng.standard_normal((2, 2, 8, 8, 32)), jnp.float32)

  def run(kernels):
    blocks = swin.SwinBlocks(
      2, 2, 4, 1, jnp.float32, swin.Execution(remat=remat, kernels=kernels)
    )
    shapes = jax.eval_shape(blocks.init, jax.random.key(0), x)["params"]
    stage = initialization.draw(shapes, 0)

    def loss(stage, x):
      y = blocks.apply({"params": stage}, x, valid)
      return (y * weight).sum(), y

    function = jax.value_and_grad(loss, (0, 1), has_aux=True)
    return jax.jit(function)(stage, x)

  plain = run(None)
  assert not calls
  fused = run(_ONE)
  assert set(calls) == {
    "layer_norm",
    "layer_norm_gradient",
    "layer_norm_of_sum",
    "mlp_gradient",
    "mlp_in",
    "sum_rows",
    "window_attention",
    "window_attention_gradient",
  }
  assert jax.tree.structure(plain) == jax.tree.structure(fused)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
    plain,
    fused,
  )
  jax.clear_caches()


def test_bfloat16_is_for_factors_alone_on_a_cpu_and_for_all_elsewhere():
  bfloat16, float32 = jnp.bfloat16, jnp.float32
  for make in (
    swin.Execution.of_inference,
    lambda platform, dtype: swin.Execution.of_training(
      platform, _ONE, False, dtype
    ),
  ):
    assert make("cpu", bfloat16).factor_dtype == bfloat16
    assert make("cpu", float32).factor_dtype is None
    assert make("gpu", bfloat16).factor_dtype is None
  assert swin.activation_dtype("cpu", bfloat16) == float32
  assert swin.activation_dtype("gpu", bfloat16) == bfloat16


def test_factors_of_transforms_are_rounded_but_none_that_tables_hang_on(params):
  narrow = codec.Codec(
    CONFIG, execution=swin.Execution(False, False, "bfloat16")
  )
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.random((1, 64, 64, 3)), jnp.float32)
  y = MODEL.apply({"params": params}, image, method="analysis")
  z = MODEL.apply({"params": params}, y, method="hyper_analysis")

  def both(method, x):
    return [
      model.apply({"params": params}, x, method=method)
      for model in (MODEL, narrow)
    ]

  for method, x in [("analysis", image), ("synthesis", y)]:
    wide, rounded = both(method, x)
    deviation = np.abs(wide - rounded).max() / np.std(wide)
    assert 1e-4 < deviation < 0.1, method
  lowered = jax.jit(
    lambda image: narrow.apply({"params": params}, image, method="analysis")
  ).lower(image)
  rounded = re.findall("dot_general.*bf16", lowered.as_text())
  # Of each block qkv, proj, mlp_in and mlp_out.
  assert len(rounded) == 4 * sum(CONFIG.analysis_depths)
  for plain, other in zip(*both("hyper_synthesis", jnp.round(z)), strict=True):
    np.testing.assert_array_equal(plain, other)


def test_remat_reaches_every_block_and_changes_no_parameter(params):
  model = codec.Codec(CONFIG, execution=swin.Execution(remat=True))
  shape = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  key = jax.random.key(0)
  shapes = jax.eval_shape(model.init, key, shape)["params"]
  assert shapes == codec.param_shapes(CONFIG)
  # Two transforms each way have as many blocks.
  blocks = 2 * (sum(CONFIG.analysis_depths) + sum(CONFIG.hyper_depths))
  for network, count in ((model, blocks), (MODEL, 0)):
    jaxpr = jax.make_jaxpr(lambda p, x, n=network: n.apply({"params": p}, x))(
      params, shape
    )
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert sum(name in ("checkpoint", "remat2") for name in names) == count


@pytest.mark.parametrize("size", [(63, 64), (64, 100), (32, 32)])
def test_sides_must_be_multiples_of_64(params, size):
  with pytest.raises(ValueError, match="multiples of 64"):
    MODEL.apply({"params": params}, jnp.zeros((1, *size, 3)), method="analysis")


def test_slice_loop_hands_on_what_visits_return():
  seen = []

  def slice_parameters(i, means, scales, support):
    seen.append((i, [float(s[0, 0, 0, 0]) for s in support]))
    return means[..., i : i + 1], scales[..., i : i + 1]

  def visit(i, mean, index):
    return mean * 10 + index

  means = jnp.arange(3.0).reshape(1, 1, 1, 3)
  y_hat = slice_loop.visit_slices(slice_parameters, visit, means, means + 1, 3)
  np.testing.assert_array_equal(y_hat[0, 0, 0], [1, 12, 23])
  assert seen == [(0, []), (1, [1.0]), (2, [1.0, 12.0])]


def test_hidden_widths_are_the_official_ones():
  widths = [charm.hidden_widths(i, 32, 10) for i in range(10)]
  first, second = zip(*widths, strict=True)
  assert first == (64, 64, 85, 106, 128, 149, 170, 192, 213, 234)
  assert second == (32, 32, 42, 53, 64, 74, 85, 96, 106, 117)


def test_orp_head_starts_as_the_last_stage_and_stops_gradients(params):
  head_params = orp.init_from_synthesis(params)
  features = jnp.asarray(
    np.random.default_rng(0).standard_normal((1, 8, 8, 16)), jnp.float32
  )
  head = orp.OrpHead(CONFIG)
  run = jax.jit(lambda p, f: head.apply({"params": p}, f))
  g_s = jax.jit(
    lambda p, f: MODEL.apply({"params": p}, f, method="synthesis_last_stage")
  )
  np.testing.assert_allclose(
    run(head_params, features), g_s(params, features), atol=1e-6
  )
  gradient = jax.grad(lambda f: run(head_params, f).sum())(features)
  assert not np.asarray(gradient).any()


def test_alpha_is_linear_between_the_two_outputs():
  gan, mse = jnp.full((1, 2, 2, 3), 0.2), jnp.full((1, 2, 2, 3), 0.6)
  for alpha, value in ((1.0, 0.2), (0.0, 0.6), (0.25, 0.5)):
    np.testing.assert_allclose(
      orp.interpolate(gan, mse, alpha), value, rtol=1e-6
    )


def test_initialisation_is_by_name_and_seed():
  a, b = codec.init_codec_params(CONFIG, 0), codec.init_codec_params(CONFIG, 1)
  assert jax.tree.structure(a) == jax.tree.structure(codec.param_shapes(CONFIG))

  def kernel(p):
    return p["analysis"]["stage_0"]["block_0"]["mlp_in"]["kernel"]

  assert not np.array_equal(kernel(a), kernel(b))
  wider = codec.init_codec_params(
    presets.CodecConfig(**{**vars(CONFIG), "analysis_depths": (2, 2, 1, 2)}), 0
  )
  np.testing.assert_array_equal(kernel(a), kernel(wider))
