"""Worker processes give the batches of one process, from any state."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from egic_jax.data import pipeline

_OPTIONS = {
  "global_batch_size": 4,
  "crop_size": 32,
  "scale_range": (0.5, 1.5),
  "color_policy": "simple_classification",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
  return pipeline.prepare(
    pipeline.DatasetSpec(
      config="tiny", data_dir=str(tmp_path_factory.mktemp("built"))
    )
  )


def _equal(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_state_and_batches_are_those_of_one_process(scenes, tmp_path):
  alone = pipeline.make_train_iterator(scenes, **_OPTIONS)
  expected = [next(alone) for _ in range(7)]
  iterator = pipeline.make_train_iterator(
    scenes, num_workers=2, num_threads=1, cache_decoded=True, **_OPTIONS
  )
  alone.set_state({"next_index": 2})
  path = tmp_path / "state"
  with ocp.Checkpointer(grain.checkpoint.CheckpointHandler()) as saver:
    saver.save(path, args=grain.checkpoint.CheckpointSave(alone))
    # Without workers written, with workers read.
    saver.restore(path, args=grain.checkpoint.CheckpointRestore(iterator))
  assert iterator.get_state() == alone.get_state()
  try:
    for batch in expected[2:6]:
      assert _equal(next(iterator), batch)
    # And the other way, in the midst of a cycle of the workers.
    alone.set_state(iterator.get_state())
    assert alone.get_state() == {"next_index": 6}
    assert _equal(next(alone), expected[6])
  finally:
    iterator.close()
  with pytest.raises(ValueError, match="closed"):
    next(iterator)


def test_a_negative_number_is_named(scenes):
  with pytest.raises(ValueError, match="num_workers = -1"):
    pipeline.make_train_iterator(scenes, num_workers=-1, **_OPTIONS)


def _is_running(pid):
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_workers_end_with_a_training_that_was_killed(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(
    textwrap.dedent("""
      import multiprocessing, time
      import grain
      from egic_jax.data import worker_processes

      if __name__ == "__main__":
        iterator = worker_processes.WorkerIterator(
          grain.MapDataset.source([1, 2]).repeat(None),
          num_workers=1,
          read_options=grain.ReadOptions(num_threads=1),
          buffer_size=1,
        )
        next(iterator)
        (child,) = multiprocessing.active_children()
        print(child.pid, flush=True)
        time.sleep(60)
    """)
  )
  process = subprocess.Popen(
    [sys.executable, str(program)], stdout=subprocess.PIPE, text=True
  )
  worker = int(process.stdout.readline())
  assert _is_running(worker)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  deadline = time.monotonic() + 30
  while _is_running(worker):
    assert time.monotonic() < deadline
    time.sleep(0.1)
