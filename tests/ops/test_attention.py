"""The two formulations of attention, against each other and the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egic_jax.ops import attention, windows

HEADS, WIDTH, WINDOW = 3, 12, 4


def _inputs(height, width, shift):
  rng = np.random.default_rng(0)
  regions = windows.regions(height, width, WINDOW, shift)
  count = 2 * (4 if regions is None else len(regions))
  qkv = rng.standard_normal((count, WINDOW**2, 3 * WIDTH)) * 2
  bias = rng.standard_normal((HEADS, WINDOW**2, WINDOW**2))
  return qkv, bias, regions


def _by_definition(qkv, bias, regions):
  """Token by token, with invisible ones simply left out."""
  count, tokens, _ = qkv.shape
  size = WIDTH // HEADS
  out = np.zeros((count, tokens, WIDTH))
  for n in range(count):
    for h in range(HEADS):
      own = slice(h * size, (h + 1) * size)
      q = qkv[n, :, :WIDTH][:, own]
      k = qkv[n, :, WIDTH : 2 * WIDTH][:, own]
      v = qkv[n, :, 2 * WIDTH :][:, own]
      for t in range(tokens):
        seen = np.ones(tokens, bool)
        if regions is not None:
          seen = regions[n % len(regions)] == regions[n % len(regions), t]
        logits = k[seen] @ q[t] / np.sqrt(size) + bias[h, t, seen]
        weights = np.exp(logits - logits.max())
        out[n, t, own] = weights @ v[seen] / weights.sum()
  return out


@pytest.mark.parametrize(
  "height,width,shift", [(8, 8, 0), (8, 8, 2), (5, 7, 2)]
)
def test_equals_the_definition(height, width, shift):
  qkv, bias, regions = _inputs(height, width, shift)
  ours = attention.window_attention(
    jnp.asarray(qkv, jnp.float32),
    jnp.asarray(bias, jnp.float32),
    regions,
    num_heads=HEADS,
  )
  expected = _by_definition(qkv, bias, regions)
  np.testing.assert_allclose(ours, expected, atol=3e-6)


@pytest.mark.parametrize("shift", [0, 2])
def test_both_forms_agree_with_gradients_in_float64(shift, float64):
  qkv, bias, regions = _inputs(8, 8, shift)
  weight = np.random.default_rng(1).standard_normal((*qkv.shape[:2], WIDTH))

  def run(form):
    def loss(qkv, bias):
      out = form(qkv, bias, regions=regions, num_heads=HEADS)
      return (out * weight).sum(), out

    # Otherwise a form without the gradient of its own would pass, too.
    assert form is attention._heads_at_once or "custom_vjp" in str(
      jax.make_jaxpr(loss)(qkv, bias)
    )
    return jax.grad(loss, argnums=(0, 1), has_aux=True)(
      jnp.asarray(qkv), jnp.asarray(bias)
    )

  at_once = run(attention._heads_at_once)
  in_turn = run(attention._heads_in_turn)
  for a, b in zip(
    jax.tree.leaves(at_once), jax.tree.leaves(in_turn), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)
