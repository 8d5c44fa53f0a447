"""A picture in the corner of a larger map: the rest must not matter."""

import functools

import jax
import numpy as np
import pytest

from egic_jax.models import codec, orp, presets
from egic_jax.ops import windows

CONFIG = presets.CodecConfig(
  analysis_widths=(8, 8, 8, 16),
  analysis_depths=(1, 1, 2, 2),
  analysis_window=8,
  hyper_width=8,
  hyper_depths=(2, 2),
  hyper_window=2,
  num_slices=2,
  head_width=8,
  mlp_ratio=1,
)
_BUCKET = (5, 4)
# In elements of z. Odd sides end in the middle of windows, at every resolution
# that has windows that large.
_VALID = (3, 1)


@pytest.fixture(scope="module")
def params():
  params = codec.init_codec_params(CONFIG, 0)
  rng = np.random.default_rng(1)

  # Attention that prefers some places, so that a wrong neighbour shows.
  def sharper(path, value):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.endswith("relative_position_bias"):
      return rng.normal(0, 2, value.shape).astype(np.float32)
    return 3 * value if name.endswith("qkv/kernel") else value

  return jax.tree_util.tree_map_with_path(sharper, params)


@functools.cache
def _program(method):
  model = codec.Codec(CONFIG)

  def apply(params, arrays, valid):
    if method == "slice_parameters":
      means, scales, support = arrays
      arguments = (1, means, scales, (support,))
    else:
      arguments = arrays
    return model.apply(
      {"params": params}, *arguments, valid=valid, method=method
    )

  return jax.jit(apply)


# Method, channels of its arrays, their elements per element of z.
_METHODS = [
  ("analysis", (3,), 64),
  ("synthesis", (16,), 4),
  ("hyper_analysis", (16,), 4),
  ("hyper_synthesis", (8,), 1),
  ("slice_parameters", (16, 16, 8), 4),
]


@pytest.mark.parametrize("method, channels, scale", _METHODS)
def test_valid_part_is_as_if_alone(params, method, channels, scale):
  rng = np.random.default_rng(0)
  height, width = (scale * size for size in _VALID)
  alone = [
    rng.standard_normal((1, height, width, c), np.float32) for c in channels
  ]
  # What lies outside is loud, and differs from anything inside.
  bucket = [scale * size for size in _BUCKET]
  padded = [np.full((1, *bucket, c), 7, np.float32) for c in channels]
  for whole, part in zip(padded, alone, strict=True):
    whole[:, :height, :width] = part
  run = _program(method)
  expected = jax.tree.leaves(run(params, alone, None))
  extent = (np.int32(height), np.int32(width))
  result = jax.tree.leaves(run(params, padded, extent))
  for a, b in zip(result, expected, strict=True):
    np.testing.assert_allclose(
      a[:, : b.shape[1], : b.shape[2]], b, rtol=0, atol=2e-5 * np.abs(b).max()
    )
  # Another extent takes the same program.
  programs = run._cache_size()
  run(params, padded, (np.int32(scale), np.int32(4 * scale)))
  assert run._cache_size() == programs


def test_orp_head(params):
  head = orp.OrpHead(CONFIG)
  run = jax.jit(
    lambda features, valid: head.apply(
      {"params": orp.init_from_synthesis(params)}, features, valid
    )
  )
  features = np.full((1, 32, 64, 8), 7, np.float32)
  features[:, :20, :36] = np.random.default_rng(0).standard_normal(
    (1, 20, 36, 8)
  )
  alone = run(features[:, :20, :36], None)
  inside = run(features, (np.int32(20), np.int32(36)))[:, :40, :72]
  np.testing.assert_allclose(inside, alone, atol=1e-5)


def test_bits_are_those_of_the_valid_part(params):
  rng = np.random.default_rng(0)
  y = 3 * rng.standard_normal((1, 20, 16, 16), np.float32)
  z = 3 * rng.standard_normal((1, 5, 4, 8), np.float32)
  alone = _program("quantize")(params, (y[:, :12, :8], z[:, :3, :2]), None)
  y[:, 12:], z[:, 3:] = 9, 9
  y[:, :, 8:], z[:, :, 2:] = 9, 9
  extent = (np.int32(12), np.int32(8))
  inside = _program("quantize")(params, (y, z), extent)
  np.testing.assert_allclose(inside.y_bits, alone.y_bits, rtol=1e-5)
  np.testing.assert_allclose(inside.z_bits, alone.z_bits, rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
def test_traced_regions_are_the_static_ones(shift):
  static = windows.regions(5, 9, 4, shift)
  traced = windows.regions(8, 16, 4, shift, (5, 9))
  # Windows of the smaller map, in the larger one's grid of 2 x 4; the last of
  # a shifted axis hold what the larger map has in its own last window.
  visible = np.asarray(traced)[:, :, None] == np.asarray(traced)[:, None, :]
  if not shift:
    kept = visible.reshape(2, 4, 16, 16)[:2, :3].reshape(-1, 16, 16)
    expected = static[:, :, None] == static[:, None, :]
    np.testing.assert_array_equal(kept, expected)
  place = np.full((1, 8, 16, 2), -1.0, np.float32)
  place[0, :5, :9] = np.stack(np.mgrid[:5, :9], axis=-1)
  tokens = np.asarray(windows.partition(place, 4, shift))
  for block, seen in zip(tokens, visible, strict=True):
    for a, b in np.ndindex(16, 16):
      if block[a, 0] < 0:
        continue
      step = np.subtract(divmod(b, 4), divmod(a, 4))
      near = block[b, 0] >= 0 and np.array_equal(block[b] - block[a], step)
      assert seen[a, b] == near
