"""Losses and updates as pure functions: (state, batch, key) > (state, metrics).

Nothing here knows of devices, files or time; the loop jits what this builds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from egic_jax.losses import rate_distortion
from egic_jax.models import codec as codec_lib
from egic_jax.training import stages
from egic_jax.training import state as state_lib

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[[dict[str, Any], Batch, jax.Array], tuple[jax.Array, Metrics]]
Step = Callable[
  [state_lib.TrainState, Batch, jax.Array], tuple[state_lib.TrainState, Metrics]
]


def to_float(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [0, 1], any shape."""
  return image.astype(jnp.float32) / 255.0


def rate_distortion_loss(
  codec: codec_lib.Codec, *, distortion_weight: float, rate_weight: float
) -> Loss:
  """Stage 1's objective on a batch {"image": (B, H, W, 3) uint8}."""

  def loss(params, batch, key):
    image = to_float(batch["image"])
    output = codec.apply({"params": params["codec"]}, image, key)
    return rate_distortion.rate_distortion(
      image,
      output,
      distortion_weight=distortion_weight,
      rate_weight=rate_weight,
    )

  return loss


def make_train_step(
  stage: stages.Stage,
  *,
  losses: dict[str, Loss],
  optimizers: dict[str, optax.GradientTransformation],
) -> Step:
  """Builds the training step of a stage.

  Args:
    stage: what to update.
    losses: loss name > function (params, batch, key) > (scalar, metrics), for
      each name in the stage's updates.
    optimizers: optimiser name > transformation, likewise.

  Returns:
    A pure function (state, batch, key) > (state, metrics). *key* is the run's
    key: each step folds its number in, so a resumed run draws the same noise.
    metrics are scalars; "grad_norm" is the global norm before clipping, under
    the optimiser's name when there are several.
  """

  def train_step(state, batch, key):
    key = jax.random.fold_in(key, state.step)
    params, opt_state, metrics = state.params, dict(state.opt_state), {}
    for i, update in enumerate(stage.updates):
      trained, frozen = stages.split_params(params, update.groups)

      grads_of = jax.grad(
        _objective(losses[update.loss], frozen, batch), has_aux=True
      )
      grads, scalars = grads_of(trained, jax.random.fold_in(key, i))
      updates, opt_state[update.optimizer] = optimizers[
        update.optimizer
      ].update(grads, opt_state[update.optimizer], trained)
      params = stages.join_params(optax.apply_updates(trained, updates), frozen)
      name = f"{update.optimizer}_" if len(stage.updates) > 1 else ""
      metrics |= scalars | {f"{name}grad_norm": optax.tree.norm(grads)}
    return (
      state.replace(step=state.step + 1, params=params, opt_state=opt_state),
      metrics,
    )

  return train_step


def _objective(loss: Loss, frozen: dict[str, Any], batch: Batch):
  def objective(trained, key):
    return loss(stages.join_params(trained, frozen), batch, key)

  return objective


def make_reconstruct(
  codec: codec_lib.Codec,
) -> Callable[[dict[str, Any], jax.Array], tuple[jax.Array, jax.Array]]:
  """Builds the evaluation pass of the codec.

  Args:
    codec: the module.

  Returns:
    A pure function (params, image (B, H, W, 3) uint8) > (reconstruction of the
    same shape, uint8; bpp (B,) estimated with rounded latents).
  """

  def reconstruct(params, image):
    output = codec.apply({"params": params["codec"]}, to_float(image))
    pixels = image.shape[1] * image.shape[2]
    bpp = (output.y_bits.sum(-1) + output.z_bits) / pixels
    x_hat = jnp.round(jnp.clip(output.x_hat, 0.0, 1.0) * 255.0)
    return x_hat.astype(jnp.uint8), bpp

  return reconstruct
