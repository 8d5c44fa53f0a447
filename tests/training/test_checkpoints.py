"""Checkpoints: written, verified, fallen back from, loaded without the loop."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import micro_training
import numpy as np
import pytest

from egic_jax.models import presets
from egic_jax.training import (
  checkpoints,
  errors,
  optimizer,
  sharding,
  stages,
)
from egic_jax.training import state as state_lib

_IDENTITY = "waves/train:12"


@pytest.fixture
def state(params, run_arguments):
  return jax.jit(
    lambda p: state_lib.create(
      p,
      stage=stages.get_stage("stage1_mse"),
      optimizers=run_arguments["optimizers"],
    )
  )(params)


@pytest.fixture
def abstract_state(state):
  return sharding.abstract_like(
    state, sharding.replicated(sharding.make_mesh(1))
  )


@pytest.fixture
def lines():
  return []


@pytest.fixture
def workdir(tmp_path, codec_config):
  checkpoints.write_config(
    tmp_path, {"model": {"codec": presets.config_to_dict(codec_config)}}
  )
  return tmp_path


@pytest.fixture
def open_checkpoints(workdir, lines):
  opened = []

  def open_(identity=_IDENTITY, keep=3):
    opened.append(
      checkpoints.Checkpoints(
        workdir, keep=keep, dataset_identity=identity, report=lines.append
      )
    )
    return opened[-1]

  yield open_
  for saved in opened:
    saved.close()


def _at(state, step):
  """The state as if after *step* updates, different for each."""
  return state.replace(
    step=jnp.asarray(step, jnp.int32),
    params=jax.tree.map(lambda x: x + step, state.params),
  )


def _save(saved, state, steps):
  iterator = micro_training.make_iterator()
  for step in steps:
    next(iterator)
    saved.save(_at(state, step), iterator)
  saved.wait()


def _flip_a_bit(workdir, step, item="state"):
  """In the middle of the largest file of array data."""
  files = [
    p
    for p in (workdir / "checkpoints" / str(step) / item).rglob("*")
    if p.is_file() and p.suffix != ".txt"
  ]
  path = max(files, key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def test_round_trip_of_state_and_data_position(
  open_checkpoints, state, abstract_state
):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  iterator = micro_training.make_iterator()
  restored = saved.restore_newest_good(abstract_state, iterator)
  assert micro_training.trees_equal(restored, _at(state, 2))
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  assert iterator.get_state() == {"next_index": 2}


def test_no_checkpoint_is_no_error(open_checkpoints, abstract_state):
  saved = open_checkpoints()
  iterator = micro_training.make_iterator()
  assert saved.restore_newest_good(abstract_state, iterator) is None


def test_only_the_newest_are_kept(open_checkpoints, state, workdir):
  saved = open_checkpoints(keep=2)
  _save(saved, state, [1, 2, 3])
  names = {p.name for p in (workdir / "checkpoints").iterdir()}
  assert {n for n in names if n.isdigit()} == {"2", "3"}


def test_a_flipped_bit_falls_back_and_can_be_written_again(
  open_checkpoints, state, abstract_state, workdir, lines
):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  saved.close()
  _flip_a_bit(workdir, 2)

  saved = open_checkpoints()
  iterator = micro_training.make_iterator()
  restored = saved.restore_newest_good(abstract_state, iterator)
  assert micro_training.trees_equal(restored, _at(state, 1))
  assert iterator.get_state() == {"next_index": 1}
  assert any("checkpoint 2 is damaged" in line for line in lines)
  assert (workdir / "corrupt_checkpoints" / "2").is_dir()

  next(iterator)
  saved.save(_at(state, 2), iterator)
  saved.wait()
  again = saved.restore_newest_good(abstract_state, iterator)
  assert int(again.step) == 2


def test_a_change_that_storage_cannot_see_is_noticed(
  open_checkpoints, state, abstract_state, workdir, lines
):
  # Well-formed files with other contents: only the digests can tell.
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  saved.close()
  path = workdir / "checkpoints" / "2" / "data" / "process_0-of-1.json"
  path.write_text(json.dumps({"next_index": 7}))
  saved = open_checkpoints()
  iterator = micro_training.make_iterator()
  restored = saved.restore_newest_good(abstract_state, iterator)
  assert int(restored.step) == 1
  assert any("iterator's position" in line for line in lines)


def test_a_value_that_storage_reads_without_complaint_is_noticed(
  open_checkpoints, state, abstract_state, workdir, lines, tmp_path_factory
):
  # What a bit flipped in uncompressed array data comes to: a good file, in
  # which one number is another.
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  saved.close()
  altered = jax.tree.map(np.array, _at(state, 2))
  altered.params["codec"]["prior"]["matrices_0"].flat[5] *= 1 + 1e-6
  elsewhere = tmp_path_factory.mktemp("altered")
  other = checkpoints.Checkpoints(
    elsewhere, keep=1, dataset_identity=_IDENTITY, report=print
  )
  other.save(altered, micro_training.make_iterator())
  other.close()
  shutil.rmtree(workdir / "checkpoints" / "2" / "state")
  shutil.copytree(
    elsewhere / "checkpoints" / "2" / "state",
    workdir / "checkpoints" / "2" / "state",
  )

  assert checkpoints.load_parameters(workdir, report=lines.append)[2] == 1
  saved = open_checkpoints()
  restored = saved.restore_newest_good(
    abstract_state, micro_training.make_iterator()
  )
  assert int(restored.step) == 1
  assert sum("matrices_0 differs from its SHA-256" in s for s in lines) == 2


@pytest.mark.parametrize("item", ["manifest", "state", "data"])
def test_a_missing_part_falls_back(
  open_checkpoints, state, abstract_state, workdir, item
):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  saved.close()
  for path in (workdir / "checkpoints" / "2" / item).rglob("*"):
    if path.is_file():
      path.unlink()
  saved = open_checkpoints()
  iterator = micro_training.make_iterator()
  restored = saved.restore_newest_good(abstract_state, iterator)
  assert int(restored.step) == 1


def test_nothing_good_left_is_one_line(
  open_checkpoints, state, abstract_state, workdir
):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  saved.close()
  for step in (1, 2):
    _flip_a_bit(workdir, step)
  saved = open_checkpoints()
  with pytest.raises(errors.CheckpointError, match="none of the 2") as caught:
    saved.restore_newest_good(abstract_state, micro_training.make_iterator())
  assert "\n" not in str(caught.value)
  assert (workdir / "checkpoints" / "2").is_dir()
  with pytest.raises(ValueError, match="none of the 2 checkpoints"):
    checkpoints.load_parameters(workdir)


def test_an_unfinished_save_is_ignored_and_cleaned_up(
  open_checkpoints, state, abstract_state, workdir
):
  saved = open_checkpoints()
  _save(saved, state, [1])
  saved.close()
  partial = workdir / "checkpoints" / "2.orbax-checkpoint-tmp"
  partial.mkdir()
  (partial / "rubbish").write_text("half")
  assert checkpoints.load_parameters(workdir)[2] == 1
  saved = open_checkpoints()
  restored = saved.restore_newest_good(
    abstract_state, micro_training.make_iterator()
  )
  assert int(restored.step) == 1
  assert not partial.exists()


def test_other_data_are_refused(open_checkpoints, state, abstract_state):
  saved = open_checkpoints()
  _save(saved, state, [1])
  saved.close()
  other = open_checkpoints(identity="waves/train:13")
  with pytest.raises(ValueError, match="waves/train:12 .* waves/train:13"):
    other.restore_newest_good(abstract_state, micro_training.make_iterator())


def test_another_optimiser_s_moments_are_refused_not_set_aside(
  open_checkpoints, state, params, workdir
):
  saved = open_checkpoints()
  _save(saved, state, [1])
  saved.close()
  muon = optimizer.make_optimizer(
    kind="muon", schedule=lambda _: 1e-3, b1=0.9, b2=0.999, clip_norm=0.0
  )
  other = jax.eval_shape(
    lambda p: state_lib.create(
      p, stage=stages.get_stage("stage1_mse"), optimizers={"generator": muon}
    ),
    params,
  )
  other = sharding.abstract_like(
    other, sharding.replicated(sharding.make_mesh(1))
  )
  with pytest.raises(
    ValueError, match=f"another optimizer.kind.*train.init_from={workdir}"
  ):
    open_checkpoints().restore_newest_good(
      other, micro_training.make_iterator()
    )
  assert (workdir / checkpoints.CHECKPOINTS / "1").is_dir()


def test_not_finite_is_not_saved(open_checkpoints, state, workdir):
  saved = open_checkpoints()
  broken = jax.tree.map(lambda x: x, _at(state, 1).params)
  broken["codec"]["charm"] = jax.tree.map(
    lambda x: x * jnp.nan, broken["codec"]["charm"]
  )
  with pytest.raises(errors.CheckpointError, match="charm.*not finite"):
    saved.save(state.replace(params=broken), micro_training.make_iterator())
  assert not checkpoints.has_checkpoint(workdir)


def test_at_least_one_is_kept(open_checkpoints):
  with pytest.raises(ValueError, match="train.keep=0"):
    open_checkpoints(keep=0)


def test_an_unwritable_place_is_one_line(tmp_path):
  (tmp_path / "checkpoints").write_text("a file where a directory should be")
  with pytest.raises(errors.CheckpointError, match="cannot open") as caught:
    checkpoints.Checkpoints(tmp_path, keep=1, dataset_identity="", report=print)
  assert "\n" not in str(caught.value)


def test_load_parameters(open_checkpoints, state, workdir, codec_config):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  config, params, step = checkpoints.load_parameters(str(workdir))
  assert (config, step) == (codec_config, 2)
  assert micro_training.trees_equal(params, _at(state, 2).params)
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(params))


def test_load_parameters_falls_back_too(
  open_checkpoints, state, workdir, lines
):
  saved = open_checkpoints()
  _save(saved, state, [1, 2])
  _flip_a_bit(workdir, 2)
  _, params, step = checkpoints.load_parameters(workdir, report=lines.append)
  assert step == 1
  assert micro_training.trees_equal(params, _at(state, 1).params)
  assert any("checkpoint 2 is damaged" in line for line in lines)
  # A reader leaves things as they are.
  assert (workdir / "checkpoints" / "2").is_dir()


def test_load_parameters_says_what_is_missing(workdir, tmp_path_factory):
  with pytest.raises(FileNotFoundError, match="no checkpoint yet"):
    checkpoints.load_parameters(workdir)
  with pytest.raises(FileNotFoundError, match="not a work directory"):
    checkpoints.load_parameters(tmp_path_factory.mktemp("empty"))
  (workdir / "checkpoints" / "1").mkdir(parents=True)
  (workdir / "config.json").write_text('{"model": {"codec": {"a": 1}}}')
  with pytest.raises(ValueError, match="does not describe a model"):
    checkpoints.load_parameters(workdir)
  (workdir / "config.json").write_text("{")
  with pytest.raises(ValueError, match="not JSON"):
    checkpoints.load_parameters(workdir)


def test_loading_needs_no_data_library():
  code = (
    "import sys\n"
    "from egic_jax.training import checkpoints\n"
    "for name in ('grain', 'tensorflow_datasets', 'tensorflow', 'clu', 'torch'):\n"
    "  assert name not in sys.modules, name\n"
  )
  assert subprocess.run([sys.executable, "-c", code]).returncode == 0
