"""Kernels on several devices that share a batch, interpreted, against none."""

import four_devices
import jax
import pytest

from egic_jax.ops import gpu_kernel

_PROGRAM = """
import functools
import jax, jax.numpy as jnp, numpy as np
from egic_jax import runtime
from egic_jax.models import initialization, resolution, swin
from egic_jax.ops import gpu_kernel
from egic_jax.training import collectives, optimizer, sharding

runtime.configure()
names, outputs = set(), {}
interpreted = functools.partial(gpu_kernel.call, interpret=True)

def call(kernel, programs, shapes, *, name, interpret, **options):
  names.add(name)
  outputs[name] = shapes[0].shape
  return interpreted(kernel, programs, shapes, name=name, **options)

gpu_kernel.call = call
gpu_kernel.serves = lambda *_, **__: True
gpu_kernel.available = lambda _: True
assert jax.device_count() == 4
mesh = sharding.make_mesh(2, 2)
devices = gpu_kernel.Devices.of(mesh)
rng = np.random.default_rng(0)
x, weight = jnp.asarray(rng.standard_normal((2, 4, 8, 8, 32)), jnp.float32)

def run(x, weight, kernels, valid):
  blocks = swin.SwinBlocks(
    2, 2, 4, 1, jnp.float32, swin.Execution(kernels=kernels))
  merging = resolution.PatchMerging(32, jnp.float32, kernels)
  shapes = jax.eval_shape(blocks.init, jax.random.key(0), x)["params"]
  after = jax.eval_shape(merging.init, jax.random.key(0), x)["params"]
  params = initialization.draw({"blocks": shapes, "merging": after}, 0)

  def loss(params, x):
    y = blocks.apply({"params": params["blocks"]}, x, valid)
    merged = merging.apply({"params": params["merging"]}, y)
    return (y * weight).sum() + (merged**2).sum(), (y, merged)

  function = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
  compiled = function.lower(params, x).compile()
  return compiled(params, x), compiled.as_text()

def same(a, b, slack):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=slack * np.abs(b).max())
  jax.tree.map(close, *jax.device_get((a, b)))

split = jax.device_put((x, weight), sharding.split_batch(mesh))
for valid in (None, (7, 6)):
  expected, _ = run(x, weight, None, valid)
  assert not names
  found, program = run(*split, devices, valid)
  same(found, expected, 2e-5)
  assert names >= {"layer_norm", "mlp_in", "window_attention_gradient"}, names
  assert outputs["window_attention"] == outputs["mlp_in"] == (64, 32), outputs
  # Devices send each other sums for parameters, and no maps.
  sent = collectives.parse(program, 4)
  assert sent and {one.kind for one in sent} == {"all-reduce"}, sent
  sizes = sum(one.payload_bytes for one in sent)
  assert sizes < 2.5 * 4 * sum(
    leaf.size for leaf in jax.tree.leaves(expected[1][0])), sent
  names.clear()
  jax.clear_caches()  # What is not traced anew is not called.

# Three pictures cannot be dealt out to four devices: no kernels.
same(run(x[:3], weight[:3], devices, None)[0],
     run(x[:3], weight[:3], None, None)[0], 1e-6)
assert not names

def update(kernels):
  made = optimizer.make_optimizer(
    kind="adam", schedule=lambda count: 1e-2, b1=0.9, b2=0.99, clip_norm=1.0,
    kernels=kernels)
  where = sharding.replicated(mesh)

  @functools.partial(jax.jit, in_shardings=where, out_shardings=where)
  def twice(params, gradients):
    state = made.init(params)
    for _ in range(2):
      params, state, norm = optimizer.apply(made, gradients, state, params)
    return params, state, norm

  by_device = "shard_map" in str(twice.trace(*tree).jaxpr)
  assert by_device == bool(kernels)
  return twice(*tree)

tree = expected[1][0], jax.tree.map(lambda leaf: leaf[::-1], expected[1][0])
same(update(devices), update(None), 1e-5)
assert names == {"adam", "sum_of_squares"}
print("same")
"""


def test_four_devices_do_what_one_does():
  assert "same" in four_devices.run(_PROGRAM)


@pytest.mark.parametrize("batch, share", [(8, 4), (2, 1), (7, 0), (0, 0)])
def test_a_batch_is_dealt_out_evenly_or_not_at_all(batch, share):
  mesh = jax.sharding.AbstractMesh((2, 1), ("data", "fsdp"))
  assert gpu_kernel.Devices.of(mesh).share(batch) == share
  assert gpu_kernel.ONE_DEVICE.share(batch) == batch
  one = jax.sharding.AbstractMesh((1, 1), ("data", "fsdp"))
  assert gpu_kernel.Devices.of(one) == gpu_kernel.ONE_DEVICE
