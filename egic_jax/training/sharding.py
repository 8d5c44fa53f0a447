"""Where arrays live: the mesh, the batch split over it, a state split or not.

One code path for one device, several, and several processes.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"
FSDP = "fsdp"

# Arrays of fewer values gain nothing from being split, and each costs a
# collective.
MIN_SPLIT_SIZE = 16_384


def make_mesh(data: int = -1, fsdp: int = 1, devices: Any = None) -> Mesh:
  """The mesh over which a batch is split, and the state if wanted.

  Args:
    data: groups of devices that share a batch, -1 for as many as there are.
    fsdp: devices of a group, over which the state is split; 1 for a copy of
      everything on every device. They share the batch, too.
    devices: the devices; those of all processes by default.

  Returns:
    A mesh with the axes "data" and "fsdp". Their type is Auto: under jax's
    default, Explicit, a reshape into windows of a split batch does not compile.

  Raises:
    ValueError: there are not that many devices, or not all processes' devices
      would take part.
  """
  devices = list(jax.devices() if devices is None else devices)
  count = len(devices)
  if not 1 <= fsdp <= count:
    raise ValueError(
      f"mesh.fsdp={fsdp}: there are {count} devices; use 1 not to split"
      " parameters"
    )
  if data == -1:
    if count % fsdp:
      raise ValueError(
        f"mesh.fsdp={fsdp}: does not divide the {count} devices; choose a"
        " divisor"
      )
    data = count // fsdp
  if not 1 <= data * fsdp <= count:
    times = f" times mesh.fsdp={fsdp}" if fsdp > 1 else ""
    raise ValueError(
      f"mesh.data={data}{times}: there are {count} devices; use -1 for all"
    )
  # A process's rows of a batch follow those of the process before it, so that
  # the same pictures are the same rows for any number of processes; and a
  # group's devices are neighbours.
  devices.sort(key=lambda device: (device.process_index, device.id))
  if devices[-1].process_index and data * fsdp != count:
    raise ValueError(
      f"mesh.data={data}: with several processes all {count} devices take"
      " part; use -1"
    )
  return Mesh(
    np.array(devices[: data * fsdp]).reshape(data, fsdp),
    (DATA, FSDP),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same values on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
  """First axis split over all devices."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def state_shardings(
  tree: Any, mesh: Mesh, min_split_size: int = MIN_SPLIT_SIZE
) -> Any:
  """Where each array of a state lives.

  It depends on an array's shape alone, so that a parameter, its moments and
  its average are cut alike.

  Args:
    tree: anything with shapes at its leaves, such as a state of
      jax.eval_shape.
    mesh: with "fsdp" greater than 1, arrays are split over that axis: along
      their longest dimension that divides evenly, the last of equals.
    min_split_size: arrays of fewer values are whole on every device, as are
      those with no dimension that divides.

  Returns:
    The same tree with a NamedSharding at each leaf.
  """
  count = mesh.shape.get(FSDP, 1)

  def sharding(leaf):
    shape = leaf.shape
    dividing = [i for i, side in enumerate(shape) if side % count == 0]
    if count == 1 or math.prod(shape) < min_split_size or not dividing:
      return replicated(mesh)
    cut = max(dividing, key=lambda i: (shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*[None] * cut, FSDP))

  return jax.tree.map(sharding, tree)


def gathered(tree: Any, mesh: Mesh) -> Any:
  """Under jit: whole arrays on every device, from split ones."""
  if mesh.shape.get(FSDP, 1) == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def bytes_per_device(tree: Any) -> int:
  """What a tree of arrays takes on each device."""
  return sum(
    math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
    for array in jax.tree.leaves(tree)
  )


def bytes_in_all(tree: Any) -> int:
  """What a tree of arrays takes on a device that has all of it."""
  return sum(
    math.prod(array.shape) * array.dtype.itemsize
    for array in jax.tree.leaves(tree)
  )


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
  """ValueError unless a global batch divides evenly.

  Args:
    batch_size: pictures of a step.
    mesh: its devices share them.
    parts: each device cuts its share into so many.
  """
  count = mesh.size
  if batch_size < 1 or batch_size % (count * parts):
    reason = f"the {count} devices that share it"
    if parts > 1:
      reason += (
        f" times {parts} (the stage's portions of a batch times"
        " train.accumulate)"
      )
    raise ValueError(
      f"data.batch_size={batch_size}: must be a positive multiple of {reason}"
    )


def global_batch(
  batch: dict[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Puts this process's part of a batch on its devices.

  Args:
    batch: host arrays with this process's share as first axis.
    mesh: the mesh.

  Returns:
    Arrays of the global shape, split over the mesh.
  """
  sharding = split_batch(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in batch.items()
  }


def on_every_device(tree: Any, mesh: Mesh) -> Any:
  """Puts host arrays, the same on every process, on all devices."""
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(replicated(mesh), x), tree
  )


def abstract_like(tree: Any, shardings: Any) -> Any:
  """Shapes and types of a tree of arrays, with a sharding for each.

  Args:
    tree: anything with shapes and types at its leaves.
    shardings: one for all, or a tree of them such as of `state_shardings`.
  """
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    jax.tree.broadcast(shardings, tree),
  )


def jit_step(step_fn: Any, state: Any, mesh: Mesh) -> Any:
  """The training step over a mesh; lower it with shapes or call it.

  With a split state the parameters are put together before use, in one place:
  left to itself the partitioner splits some products instead, and tiny's step
  took three times the collectives and a third more memory traffic. The
  gradients come back to the pieces that are kept.

  Args:
    step_fn: (state, batch, key, constants) > (state, metrics), see `steps`.
    state: shapes and shardings, see `abstract_like`.
    mesh: the mesh.

  Returns:
    What jax.jit returns; the state is donated.
  """
  everywhere = replicated(mesh)
  shardings = jax.tree.map(lambda x: x.sharding, state)

  def step(state, batch, key, constants):
    whole = state.replace(params=gathered(state.params, mesh))
    return step_fn(whole, batch, key, constants)

  return jax.jit(
    step,
    in_shardings=(shardings, split_batch(mesh), everywhere, everywhere),
    out_shardings=(shardings, everywhere),
    donate_argnums=0,
  )
