"""Where arrays live: the mesh, the batch split over it, the rest replicated.

One code path for one device, several, and several processes.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"


def make_mesh(data: int = -1) -> Mesh:
  """The mesh over which a batch is split.

  Args:
    data: number of devices, -1 for all.

  Returns:
    A mesh with the axis "data". Its type is Auto: under jax's default,
    Explicit, a reshape into windows of a split batch does not compile.

  Raises:
    ValueError: there are not that many devices, or not all processes' devices
      would take part.
  """
  devices = jax.devices()
  if data == -1:
    data = len(devices)
  if not 1 <= data <= len(devices):
    raise ValueError(
      f"mesh.data={data}: there are {len(devices)} devices; use -1 for all"
    )
  if jax.process_count() > 1 and data != len(devices):
    raise ValueError(
      f"mesh.data={data}: with several processes all {len(devices)} devices"
      " take part; use -1"
    )
  return jax.make_mesh(
    (data,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:data]
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same values on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
  """First axis split over the devices."""
  return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_size(batch_size: int, mesh: Mesh, parts: int = 1) -> None:
  """ValueError unless a global batch divides evenly.

  Args:
    batch_size: pictures of a step.
    mesh: its devices share them.
    parts: each device cuts its share into so many.
  """
  count = mesh.shape[DATA]
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


def abstract_like(tree: Any, sharding: NamedSharding) -> Any:
  """Shapes and types of a tree of arrays, with a sharding for each."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )
