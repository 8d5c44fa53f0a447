"""Training at the smallest size: a codec that compiles in seconds, and data.

Also imported by the processes that some tests start.
"""

import dataclasses
import struct

import grain
import jax
import numpy as np
from tensorboardX.proto import event_pb2

from egic_jax.models import presets
from egic_jax.models.discriminators import presets as discriminator_presets
from egic_jax.training import networks as networks_lib
from egic_jax.training import objectives, optimizer, sharding, stages

CROP = 64


def micro_config() -> presets.CodecConfig:
  return presets.CodecConfig(
    analysis_widths=(8, 8, 8, 8),
    analysis_depths=(1, 1, 1, 1),
    analysis_window=2,
    hyper_width=8,
    hyper_depths=(1, 1),
    hyper_window=1,
    num_slices=2,
    max_support=2,
    head_width=8,
    mlp_ratio=1,
  )


def micro_discriminator() -> discriminator_presets.DiscriminatorConfig:
  return discriminator_presets.DiscriminatorConfig(
    encoder_widths=(4, 8),
    decoder_widths=(8, 6),
    num_classes=3,
    latent_channels=8,
    embedding_width=6,
  )


class _Shift(grain.transforms.RandomMap):
  """A picture of waves with a random phase: cheap, smooth, never the same."""

  def random_map(self, element, rng):
    phase = rng.uniform(0, 6.28, 3)
    y, x = np.mgrid[:CROP, :CROP][..., None] / 16.0
    wave = np.sin(y + x * (1 + element) + phase)
    # Void, and a class for each third of the wave.
    label = np.clip(np.floor(wave[..., 0] * 2 + 2), 0, 3).astype(np.uint8)
    return {
      "image": (127.5 + 127.5 * wave).astype(np.uint8),
      "label": label,
      "weight": np.where(label == 1, 3, label > 0).astype(np.uint8),
    }


def make_iterator(batch_size=4, seed=0, shard=(0, 1)):
  """A process's share of batches: batch_size pictures of all processes'."""
  index, count = shard
  return iter(
    grain.MapDataset.source(list(range(12)))
    .seed(seed)
    .shuffle()
    .repeat(None)
    .random_map(_Shift())
    .batch(batch_size, drop_remainder=True)[index::count]
    .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
  )


def run_arguments(stage_name="stage1_mse", networks=None, **weights):
  """Arguments of `loop.run` for a few steps; change what a test is about."""
  stage = stages.get_stage(stage_name)
  networks = networks or micro_networks()
  schedule = optimizer.make_schedule(
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    final_fraction=0.1,
    warmup_steps=0,
    steps=100,
  )
  return {
    "networks": networks,
    "stage": stage,
    "losses": objectives.make_losses(
      networks, objectives.LossWeights(**weights)
    ),
    "optimizers": {
      update.optimizer: optimizer.make_optimizer(
        kind="adam", schedule=schedule, b1=0.9, b2=0.999, clip_norm=1.0
      )
      for update in stage.updates
    },
    "schedules": {update.optimizer: schedule for update in stage.updates},
    "mesh": sharding.make_mesh(1 if jax.process_count() == 1 else -1),
    "iterator": make_iterator(),
    "dataset_identity": "waves/train:12",
    "samples": None,
    "num_steps": 4,
    "log_every": 2,
    "checkpoint_every": 2,
    "sample_every": 2,
    "keep": 3,
    "seed": 0,
    "report": lambda line: None,
  }


def micro_networks(**changes) -> networks_lib.Networks:
  config = dataclasses.replace(micro_discriminator(), **changes)
  return networks_lib.Networks(micro_config(), config)


def leaves(tree):
  return [np.asarray(x) for x in jax.tree.leaves(tree)]


def trees_equal(a, b):
  """Bit for bit."""
  return jax.tree.structure(a) == jax.tree.structure(b) and all(
    x.dtype == y.dtype and x.tobytes() == y.tobytes()
    for x, y in zip(leaves(a), leaves(b), strict=True)
  )


def uint8_batch(count=4, seed=0):
  generator = np.random.default_rng(seed)
  low = generator.integers(0, 256, (count, 8, 8, 3))
  return np.kron(low, np.ones((1, 8, 8, 1))).astype(np.uint8)


def read_events(directory):
  """All events of a directory's event files (TFRecord framing)."""
  events = []
  for path in sorted(directory.glob("events*")):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return events


def read_scalars(directory):
  """{(name, step): value}."""
  return {
    (value.tag, event.step): value.simple_value
    for event in read_events(directory)
    for value in event.summary.value
    if value.HasField("simple_value")
  }
