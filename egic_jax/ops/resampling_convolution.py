"""3x3 convolutions before which a map is enlarged, or after which it is halved.

At the lower resolution they take four ninths or a quarter of the multiplications,
and the map of four times the pixels is never made, or never written. A pixel that
is repeated two by two meets each of its neighbours with a sum of a kernel's
entries. And averages of a convolution, as both are linear, are a convolution of
averages, of which every second row and column is wanted.

Each is the other's transpose, but for a factor of four, so each has the other for
its gradient.
"""

import jax
import jax.numpy as jnp

from egic_jax.ops import convolution

_SIDE = 3


@jax.custom_vjp
def conv3x3_of_enlarged(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolution (no flip) with zeros around of x, each pixel repeated two by two.

  Args:
    x: (B, H, W, C).
    kernel: (3, 3, C, features), of x's type or a wider one, in which sums of its
      entries are made.

  Returns:
    (B, 2 H, 2 W, features), of x's type.
  """
  (batch, height, width, _), features = x.shape, kernel.shape[-1]
  matrix = _summed(_summed(kernel, 0), 2)
  # (2, 2, C, row phase, column phase, features).
  matrix = matrix.transpose(2, 3, 4, 1, 0, 5)
  # At (h, w) what the four pixels around the corner there make of theirs.
  matrix = matrix.reshape(*matrix.shape[:3], 4 * features)
  out = convolution.plain(x, matrix, padding=1)
  out = out.reshape(batch, height + 1, width + 1, 2, 2, features)
  phases = [
    [
      out[:, row : row + height, column : column + width, row, column]
      for column in range(2)
    ]
    for row in range(2)
  ]
  out = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
  return out.reshape(batch, 2 * height, 2 * width, features)


@jax.custom_vjp
def conv3x3_halved(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Averages of two by two places of a convolution (no flip) with zeros around.

  Args:
    x: (B, H, W, C), H and W even.
    kernel: as for `conv3x3_of_enlarged`.

  Returns:
    (B, H / 2, W / 2, features), of x's type.
  """
  return _every_second(_averages(x), kernel)


def _forward_enlarged(x, kernel):
  return conv3x3_of_enlarged(x, kernel), (x, kernel)


def _backward_enlarged(residuals, gradient):
  x, kernel = residuals
  averages = _averages(gradient)
  of_x = 4 * _every_second(averages, _mirrored(kernel))
  like = jax.eval_shape(_mirrored, kernel)
  return of_x, 4 * _mirrored(_gradient_of_kernel(averages, like, x))


def _forward_halved(x, kernel):
  averages = _averages(x)
  return _every_second(averages, kernel), (averages, kernel)


def _backward_halved(residuals, gradient):
  averages, kernel = residuals
  of_x = conv3x3_of_enlarged(gradient, _mirrored(kernel)) / 4
  return of_x, _gradient_of_kernel(averages, kernel, gradient)


conv3x3_of_enlarged.defvjp(_forward_enlarged, _backward_enlarged)
conv3x3_halved.defvjp(_forward_halved, _backward_halved)


def _gradient_of_kernel(averages, kernel, gradient):
  """Of `_every_second`, of whose kernel only shape and type are asked."""
  (of_kernel,) = jax.linear_transpose(
    lambda kernel: _every_second(averages, kernel), kernel
  )(gradient)
  return of_kernel


def _mirrored(kernel):
  """That of the transposed convolution: (3, 3, C, features) > (3, 3, features, C)."""
  return kernel[::-1, ::-1].swapaxes(2, 3)


def _summed(kernel, axis):
  """(2, ...), of either of two equal pixels, and along `axis` two entries, not three.

  To the first pixel, the one before is another, itself and the next are one.
  """
  before, own, after = (
    jax.lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(_SIDE)
  )
  first = jnp.stack([before, own + after], axis)
  return jnp.stack([first, jnp.stack([before + own, after], axis)])


def _averages(x):
  """Means around each corner of pixels: (B, H, W, C) > (B, H + 2, W + 2, C).

  After a row and a column of zeros.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  wide = jnp.pad(wide, ((0, 0), (2, 1), (2, 1), (0, 0)))
  rows = wide[:, 1:] + wide[:, :-1]
  return ((rows[:, :, 1:] + rows[:, :, :-1]) / 4).astype(x.dtype)


def _every_second(averages, kernel):
  """(B, H + 2, W + 2, C) > (B, H / 2, W / 2, features)."""
  # From the second on: without padding, XLA takes three times as long on CPUs, and
  # cuDNN has none but on both sides.
  out = convolution.plain(averages, kernel, stride=2, padding=1)
  return out[:, 1:, 1:]
