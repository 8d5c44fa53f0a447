"""What devices send each other, read from HLO written by hand.

A program that XLA compiled is in test_ahead_of_time.py.
"""

import pytest

from egic_jax.training import collectives

_HLO = """\
HloModule jit_step, num_partitions=4

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%wrapped (p: f32[10]) -> f32[10] {
  %p = f32[10]{0} parameter(0)
  ROOT %q = f32[10]{0} all-reduce(%p), channel_id=7, \
replica_groups=[1,4]<=[4], to_apply=%sum
}

%body (s: (s32[], bf16[8,2])) -> (s32[], bf16[8,2]) {
  %s = (s32[], bf16[8,2]{1,0}) parameter(0)
  %x = bf16[8,2]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %g = bf16[8,2]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, \
to_apply=%sum
  ROOT %t = (s32[], bf16[8,2]{1,0}) tuple(%i, %g)
}

%condition (s: (s32[], bf16[8,2])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (p0: f32[100], p1: f32[25]) -> f32[100] {
  %p0 = f32[100]{0} parameter(0), metadata={op_name="all-reduce(state)"}
  %two = (f32[100]{0:T(128)S(1)}, /*index=1*/pred[3]{0}) all-reduce(%p0, %m), \
replica_groups=[1,4]<=[4], to_apply=%sum
  %gather-start = (f32[25]{0}, f32[100]{0}) all-gather-start(%p1), \
replica_groups=[1,4]<=[4], dimensions={0}
  %gather-done = f32[100]{0} all-gather-done(%gather-start)
  %scatter = f32[25]{0} reduce-scatter(%two), replica_groups=[1,4]<=[4], \
dimensions={0}, to_apply=%sum
  %permute-start = (f32[5]{0}, f32[5]{0}, u32[], u32[]) \
collective-permute-start(%p1), source_target_pairs={{0,1},{1,0}}
  %permute-done = f32[5]{0} collective-permute-done(%permute-start)
  %start = ((f32[10]{0}), f32[10]{0}, u32[]) async-start(%p0), calls=%wrapped
  %done = f32[10]{0} async-done(%start), calls=%wrapped
  %loop = (s32[], bf16[8,2]{1,0}) while(%init), condition=%condition, \
body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[100]{0} copy(%gather-done)
}
"""


def _by_kind(text, num_devices=4):
  return {
    (found.kind, found.group): found
    for found in collectives.parse(text, num_devices)
  }


def test_hlo_written_by_hand():
  found = _by_kind(_HLO)
  assert set(found) == {
    ("all-reduce", 4),
    ("all-reduce", 2),
    ("all-gather", 4),
    ("reduce-scatter", 4),
    ("collective-permute", 4),
  }
  # The tuple of 400 and 3 bytes, and the asynchronous one of 40, once.
  reduce = found["all-reduce", 4]
  assert (reduce.count, reduce.payload_bytes) == (2, 443)
  # 32 bytes of bfloat16, in each of three rounds.
  looped = found["all-reduce", 2]
  assert (looped.count, looped.payload_bytes) == (3, 96)
  # The larger side: what is gathered, and what is scattered.
  assert found["all-gather", 4].payload_bytes == 400
  assert found["reduce-scatter", 4].payload_bytes == 100 * 4
  assert found["collective-permute", 4].payload_bytes == 20


def test_most_bytes_come_first():
  sizes = [found.payload_bytes for found in collectives.parse(_HLO, 4)]
  assert sizes == sorted(sizes, reverse=True)


def test_a_program_of_one_device_sends_nothing():
  assert collectives.parse("ENTRY %main () -> f32[] {\n}\n", 1) == []


@pytest.mark.parametrize(
  ("kind", "sent"),
  [
    ("all-reduce", 1500.0),  # Each chip passes 3/4 of it on, twice.
    ("all-gather", 750.0),
    ("reduce-scatter", 750.0),
    ("all-to-all", 750.0),
    ("collective-permute", 1000.0),
  ],
)
def test_what_a_ring_of_four_sends(kind, sent):
  assert collectives.Collective(kind, 4, 1, 1000.0).sent_bytes == sent


def test_nothing_is_sent_to_oneself():
  assert collectives.Collective("all-reduce", 1, 1, 1000.0).sent_bytes == 0
