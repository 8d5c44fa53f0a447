"""Multi-head self-attention inside windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Added to the logits of invisible tokens, as in Swin; exp(-100) is zero in
# float32 next to any visible token.
MASKED_LOGIT = -100.0


# Jitted, so that blocks of one shape are traced and differentiated once: half of
# the time that tracing the full training step takes.
@functools.partial(jax.jit, static_argnames="num_heads")
def window_attention(
  qkv: jax.Array,
  position_bias: jax.Array,
  regions: np.ndarray | None,
  *,
  num_heads: int,
) -> jax.Array:
  """Scaled dot-product attention of the tokens of each window.

  softmax(q k^T / sqrt(d) + position bias [- 100 where invisible]) v, per head
  (Liu et al., ICCV 2021, equation 4). The softmax runs in float32.

  Args:
    qkv: (B * windows, tokens, 3 * C), queries, keys and values side by side,
      heads in order within each.
    position_bias: (num_heads, tokens, tokens).
    regions: (windows, tokens) int32 or None; tokens see those of their own
      region only, see `windows.regions`.
    num_heads: number of heads; divides C.

  Returns:
    (B * windows, tokens, C).
  """
  return jax.lax.platform_dependent(
    qkv,
    position_bias.astype(_logits_dtype(qkv)),
    cpu=functools.partial(_heads_in_turn, regions=regions, num_heads=num_heads),
    default=functools.partial(
      _heads_at_once, regions=regions, num_heads=num_heads
    ),
  )


def _mask(regions: np.ndarray) -> jax.Array:
  """(windows, tokens, tokens): what to add to the logits.

  Kept out of the compiler's constant folding: at 512x768 the folded mask of one
  block is 25 MB, where comparing regions costs next to nothing.
  """
  regions = jax.lax.optimization_barrier(jnp.asarray(regions))
  visible = regions[:, :, None] == regions[:, None, :]
  return jnp.where(visible, 0.0, MASKED_LOGIT).astype(jnp.float32)


def _heads_at_once(qkv, position_bias, *, regions, num_heads):
  """One batched product over windows and heads: for accelerators."""
  count, tokens, width = qkv.shape
  query, key, value = jnp.split(
    qkv.reshape(count, tokens, 3 * num_heads, -1), 3, axis=2
  )
  query = query * (query.shape[-1] ** -0.5)
  logits = jnp.einsum(
    "nqhd,nkhd->nhqk",
    query,
    key,
    preferred_element_type=_logits_dtype(query),
  )
  logits += position_bias
  if regions is not None:
    logits = _add_mask(logits, _mask(regions)[:, None])
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  out = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
  return out.reshape(count, tokens, width // 3)


def _heads_in_turn(qkv, position_bias, *, regions, num_heads):
  """One head after the other, normalised last: for the CPU.

  XLA:CPU hands products with a single batch axis to its fast matrix routine,
  and those over windows and heads to a loop that is several times slower.
  Dividing by the softmax's sum after the second product touches C numbers a
  token instead of a window's worth of weights.
  """
  head_width = qkv.shape[-1] // (3 * num_heads)
  heads = jnp.split(qkv, 3 * num_heads, axis=-1)
  mask = None if regions is None else _mask(regions)
  outs = []
  for head in range(num_heads):
    query, key, value = heads[head::num_heads]
    logits = _scores(query * (head_width**-0.5), key)
    logits += position_bias[head]
    if mask is not None:
      logits = _add_mask(logits, mask)
    highest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - highest)
    total = weights.sum(axis=-1, keepdims=True)
    out = _weighted_sum(weights.astype(value.dtype), value)
    outs.append((out / total).astype(qkv.dtype))
  return jnp.concatenate(outs, axis=-1)


def _logits_dtype(x):
  """float32, or float64 if that is what x has."""
  return jnp.promote_types(x.dtype, jnp.float32)


@jax.custom_vjp
def _scores(query, key):
  """(n, q, d), (n, k, d) > (n, q, k), at least float32."""
  return jnp.einsum(
    "nqd,nkd->nqk", query, key, preferred_element_type=_logits_dtype(query)
  )


def _scores_forward(query, key):
  return _scores(query, key), (query, key)


def _scores_backward(residuals, gradient):
  query, key = residuals
  gradient = gradient.astype(query.dtype)
  of_query = jnp.einsum("nqk,nkd->nqd", gradient, key)
  return of_query, _transposed_product(gradient, query)


_scores.defvjp(_scores_forward, _scores_backward)


@jax.custom_vjp
def _weighted_sum(weights, value):
  """(n, q, k), (n, k, d) > (n, q, d)."""
  return jnp.einsum("nqk,nkd->nqd", weights, value)


def _weighted_sum_forward(weights, value):
  return _weighted_sum(weights, value), (weights, value)


def _weighted_sum_backward(residuals, gradient):
  weights, value = residuals
  of_weights = jnp.einsum("nqd,nkd->nqk", gradient, value)
  return of_weights, _transposed_product(weights, gradient)


_weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def _transposed_product(weights, x):
  """(n, q, k), (n, q, d) > (n, k, d), by transposing the small arrays.

  XLA:CPU takes several times longer where the first axis of both is summed
  over, and would make that of this product, too, if it saw the transpositions.
  """
  barrier = jax.lax.optimization_barrier
  product = jnp.einsum("ndq,nqk->ndk", barrier(x.transpose(0, 2, 1)), weights)
  return barrier(product).transpose(0, 2, 1)


def _add_mask(logits, mask):
  """Adds (windows, ...) to (B * windows, ...)."""
  per_image = logits.reshape(-1, *mask.shape[:1], *logits.shape[1:])
  return (per_image + mask).reshape(logits.shape)
