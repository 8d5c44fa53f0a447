"""Learning-rate schedule and optimiser."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from egic_jax.ops import gpu_kernel, many_arrays

# Updates of matrices have this root mean square, about that of Adam's: one
# learning rate does for both (Liu et al., Muon is Scalable for LLM Training).
_MUON_RMS = 0.2
# How names of stacked kernels begin.
_KERNELS = "kernels"
# Gradients of fewer values are summed together.
_LARGE = 16_384
# That of optax.adam.
_EPSILON = 1e-8


def _muon(schedule: optax.Schedule, b1: float, b2: float):
  muon = optax.contrib.muon(
    schedule,
    adam_b1=b1,
    adam_b2=b2,
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=_MUON_RMS,
  )
  # Fifteen products for each kernel, small ones: better many at once.
  return _on_stacks(muon)


class FusedAdam(NamedTuple):
  """Clipping and Adam of all parameters, applied by a few kernels.

  A transformation as optax makes them, with the same state, and `apply`.

  Attributes:
    init, update: see `optax.GradientTransformation`.
    apply: see `apply`.
  """

  init: Callable
  update: Callable
  apply: Callable


_KINDS = {"adam": optax.adam, "muon": _muon, "nadam": optax.nadam}


def make_schedule(
  *,
  learning_rate: float,
  final_learning_rate: float,
  final_fraction: float,
  warmup_steps: int,
  steps: int,
  decay: str = "step",
) -> optax.Schedule:
  """Linear warm-up, a constant, and something lower for the last part.

  Args:
    learning_rate: the constant.
    final_learning_rate: the one of the last part, or of its end.
    final_fraction: length of the last part as a fraction of *steps*, [0, 1].
    warmup_steps: steps over which the rate rises from learning_rate /
      warmup_steps.
    steps: length of the training.
    decay: "step": the last part is constant; "linear": it falls evenly.

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
  if decay not in ("step", "linear"):
    raise ValueError(f'optimizer.decay={decay}: must be "step" or "linear"')
  final_step = steps - round(steps * final_fraction)
  schedule = optax.piecewise_constant_schedule(learning_rate)
  if final_fraction > 0:
    schedule = optax.join_schedules(
      [
        optax.constant_schedule(learning_rate),
        optax.constant_schedule(final_learning_rate)
        if decay == "step"
        else optax.linear_schedule(
          learning_rate, final_learning_rate, steps - final_step
        ),
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
  kernels: gpu_kernel.Devices | None = None,
) -> optax.GradientTransformation | FusedAdam:
  """The optimiser; its state's structure depends on *kind* only.

  Args:
    kind: "adam", "nadam", or "muon": kernels of dense layers and convolutions
      by Muon (Jordan et al., 2024), all else by Adam.
    schedule: learning rate as a function of the updates made.
    b1: decay of the first moment.
    b2: decay of the second moment.
    clip_norm: largest global norm of a gradient; 0 for no limit.
    kernels: devices, each with a copy of all parameters, on which Adam goes
      through them in a few kernels, where there are kernels
      (`ops.many_arrays`). The numbers are the same, but for rounding. None:
      optax's.

  Returns:
    An optax transformation, for `apply`.

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
  clip = _clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
  made = optax.chain(clip, _KINDS[kind](schedule, b1=b1, b2=b2))
  if not (kernels and kind == "adam" and gpu_kernel.available("adam")):
    return made

  def apply(gradients, state, params, *, interpret=False):
    apply_adam = functools.partial(
      _apply_adam, schedule, b1, b2, clip_norm, interpret=interpret
    )
    apply_adam = kernels.each(apply_adam, (False,) * 3, split_outputs=False)
    return apply_adam(gradients, state, params)

  return FusedAdam(*made, apply)


def apply(
  optimizer: optax.GradientTransformation | FusedAdam,
  gradients: Any,
  state: Any,
  params: Any,
) -> tuple[Any, Any, jax.Array]:
  """One update.

  Args:
    optimizer: what `make_optimizer` returned, or any transformation of optax.
    gradients: like params.
    state: of the optimiser.
    params: a tree.

  Returns:
    New params, new state, and the global norm of the gradients.
  """
  if isinstance(optimizer, FusedAdam):
    return optimizer.apply(gradients, state, params)
  norm = global_norm(gradients)
  updates, state = optimizer.update(gradients, state, params)
  return optax.apply_updates(params, updates), state, norm


def _apply_adam(
  schedule, b1, b2, clip_norm, gradients, state, params, *, interpret
):
  clip_state, (adam, scheduled) = state
  params, structure = jax.tree.flatten(params)
  lists = [jax.tree.leaves(tree) for tree in (adam.mu, adam.nu, gradients)]
  norm = jnp.sqrt(many_arrays.sum_of_squares(lists[2], interpret=interpret))
  count = optax.safe_increment(adam.count)

  def new_values(scalars, param, mean, square, gradient):
    factor, rate, mean_share, square_share = scalars
    gradient = gradient * factor
    mean = b1 * mean + (1 - b1) * gradient
    square = b2 * square + (1 - b2) * gradient * gradient
    deviation = jnp.sqrt(square / square_share) + _EPSILON
    return param - rate * (mean / mean_share) / deviation, mean, square

  factor = clip_norm / jnp.maximum(norm, clip_norm) if clip_norm else 1.0
  rate = schedule(scheduled.count)
  scalars = (factor, rate, 1 - b1**count, 1 - b2**count)
  new = many_arrays.update(
    new_values,
    jnp.stack([jnp.asarray(scalar, norm.dtype) for scalar in scalars]),
    (params, *lists[:2]),
    (lists[2],),
    name="adam",
    interpret=interpret,
  )
  params, mean, square = (structure.unflatten(leaves) for leaves in new)
  adam = adam._replace(count=count, mu=mean, nu=square)
  scheduled = scheduled._replace(count=optax.safe_increment(scheduled.count))
  return params, (clip_state, (adam, scheduled)), norm


def global_norm(gradients: Any) -> jax.Array:
  """Square root of the sum of all squares.

  The full codec has 628 parameters: one sum for each, in one kernel or two, is
  what an accelerator would wait for longest of all that the optimiser does. So
  small ones are summed as one vector, and large ones of one shape, which are
  cut alike over devices, as one array.
  """
  small, stacks = [], {}
  for leaf in jax.tree.leaves(gradients):
    if leaf.size < _LARGE:
      small.append(leaf.ravel())
    else:
      stacks.setdefault(leaf.shape, []).append(leaf)
  groups = [jnp.stack(stack) for stack in stacks.values()]
  if small:
    groups.append(jnp.concatenate(small))
  return optax.tree.norm(groups)


def _clip_by_global_norm(largest: float) -> optax.GradientTransformation:
  """`optax.clip_by_global_norm`, with one factor for all.

  A product with a number is computed along with what uses it; optax's choice
  between a gradient and its quotient is one more loop for every parameter.
  """

  def clip(gradients):
    factor = largest / jnp.maximum(global_norm(gradients), largest)
    return jax.tree.map(lambda x: x * factor.astype(x.dtype), gradients)

  return optax.stateless(lambda gradients, _: clip(gradients))


def _on_stacks(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """An optimiser of parameters of one shape as one array."""

  def init(params):
    return inner.init(_stack(params))

  def update(gradients, state, params=None):
    stacks = None if params is None else _stack(params)
    updates, state = inner.update(_stack(gradients), state, stacks)
    return _unstack(updates, gradients), state

  return optax.GradientTransformation(init, update)


def _stack(tree: Any) -> dict[str, jax.Array]:
  """Leaves of one kind and shape as one array, (leaves, ...), by a name."""
  stacks: dict[str, list] = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    stacks.setdefault(_stack_name(path, leaf), []).append(leaf)
  return {name: jnp.stack(stack) for name, stack in stacks.items()}


def _unstack(stacks: dict[str, jax.Array], tree: Any) -> Any:
  """Inverse of `_stack`; `tree` is like what was stacked."""
  taken: dict[str, int] = {}

  def take(path, leaf):
    name = _stack_name(path, leaf)
    number = taken.get(name, 0)
    taken[name] = number + 1
    return stacks[name][number]

  return jax.tree_util.tree_map_with_path(take, tree)


def _stack_name(path: Any, leaf: Any) -> str:
  kind = _KERNELS if path[-1].key == "kernel" else "others"
  return f"{kind} {'x'.join(map(str, jnp.shape(leaf)))}"


def _matrices(stacks: dict[str, Any]) -> dict[str, Any]:
  """Which axes of stacked kernels are rows; None for all that is no kernel."""

  def axes(name):
    kind, shape = name.split()
    *inputs, output = range(1, 1 + len(shape.split("x")))
    if kind != _KERNELS or not inputs:
      return None
    return optax.contrib.MuonDimensionNumbers(tuple(inputs), (output,))

  return {name: axes(name) for name in stacks}
