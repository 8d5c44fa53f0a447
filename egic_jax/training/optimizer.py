"""Learning-rate schedule and optimiser."""

import jax.numpy as jnp
import optax

_KINDS = {"adam": optax.adam, "nadam": optax.nadam}


def make_schedule(
  *,
  learning_rate: float,
  final_learning_rate: float,
  final_fraction: float,
  warmup_steps: int,
  steps: int,
) -> optax.Schedule:
  """Linear warm-up, a constant, and a lower constant for the last part.

  Args:
    learning_rate: the constant.
    final_learning_rate: the one of the last part.
    final_fraction: length of the last part as a fraction of *steps*, [0, 1].
    warmup_steps: steps over which the rate rises from learning_rate /
      warmup_steps.
    steps: length of the training.

  Returns:
    Function of the number of updates made so far to the next one's rate.

  Raises:
    ValueError: a value is out of its range.
  """
  for name, value in (
    ("learning_rate", learning_rate),
    ("final_learning_rate", final_learning_rate),
    ("warmup_steps", warmup_steps),
  ):
    if not value >= 0:
      raise ValueError(f"optimizer.{name}={value}: must not be negative")
  if not 0 <= final_fraction <= 1:
    raise ValueError(
      f"optimizer.final_fraction={final_fraction}: must lie in [0, 1]"
    )
  final_step = steps - round(steps * final_fraction)
  schedule = optax.piecewise_constant_schedule(learning_rate)
  if final_fraction > 0:
    schedule = optax.join_schedules(
      [
        optax.constant_schedule(learning_rate),
        optax.constant_schedule(final_learning_rate),
      ],
      [final_step],
    )
  if not warmup_steps:
    return schedule

  def warmed_up(count):
    # (count + 1): a first step at rate 0 would be a step for nothing.
    return schedule(count) * jnp.minimum((count + 1) / warmup_steps, 1.0)

  return warmed_up


def make_optimizer(
  *,
  kind: str,
  schedule: optax.Schedule,
  b1: float,
  b2: float,
  clip_norm: float,
) -> optax.GradientTransformation:
  """The optimiser; its state's structure depends on *kind* only.

  Args:
    kind: "adam" or "nadam".
    schedule: learning rate as a function of the updates made.
    b1: decay of the first moment.
    b2: decay of the second moment.
    clip_norm: largest global norm of a gradient; 0 for no limit.

  Returns:
    An optax transformation.

  Raises:
    ValueError: unknown kind, or a value out of its range.
  """
  if kind not in _KINDS:
    raise ValueError(
      f"optimizer.kind={kind}: no such optimiser; there are {', '.join(_KINDS)}"
    )
  for name, value in (("b1", b1), ("b2", b2)):
    if not 0 <= value < 1:
      raise ValueError(f"optimizer.{name}={value}: must lie in [0, 1)")
  if not clip_norm >= 0:
    raise ValueError(f"optimizer.clip_norm={clip_norm}: must not be negative")
  clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  return optax.chain(clip, _KINDS[kind](schedule, b1=b1, b2=b2))
