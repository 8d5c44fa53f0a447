"""Multi-head self-attention inside windows."""

import jax
import jax.numpy as jnp
import numpy as np

# Added to the logits of invisible tokens, as in Swin; exp(-100) is zero in
# float32 next to any visible token.
MASKED_LOGIT = -100.0


def window_attention(
  qkv: jax.Array,
  position_bias: jax.Array,
  visible: np.ndarray | None,
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
    visible: (windows, tokens, tokens) bool or None, see `windows.visibility`.
    num_heads: number of heads; divides C.

  Returns:
    (B * windows, tokens, C).
  """
  count, tokens, width = qkv.shape
  head_width = width // (3 * num_heads)
  query, key, value = jnp.split(
    qkv.reshape(count, tokens, 3 * num_heads, head_width), 3, axis=2
  )
  query = query * (head_width**-0.5)
  logits = jnp.einsum(
    "nqhd,nkhd->nhqk", query, key, preferred_element_type=jnp.float32
  )
  logits += position_bias.astype(jnp.float32)
  if visible is not None:
    mask = np.where(visible, 0.0, MASKED_LOGIT).astype(np.float32)[:, None]
    per_image = logits.reshape(-1, len(visible), *logits.shape[1:])
    logits = (per_image + mask).reshape(logits.shape)
  weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
  out = jnp.einsum("nhqk,nkhd->nqhd", weights, value)
  return out.reshape(count, tokens, num_heads * head_width)
