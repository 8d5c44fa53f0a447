"""Saves: exact, limited in size, whole or not there."""

import shutil

import ml_dtypes
import numpy as np
import pytest
import saved


@pytest.fixture
def trees():
  generator = np.random.default_rng(0)

  def array(*shape):
    return generator.normal(size=shape).astype(np.float32)

  params = {"now": {"a": array(50, 40), "b": array(3)}}
  others = {
    "opt_state": {"g": ({"a": array(50, 40)}, np.int32(7))},
    "ema": {"a": array(50, 40)},
  }
  return params, others


def _save(run, trees, number=1, **changes):
  params, others = trees
  return saved.save(
    run,
    params=params,
    others=others,
    position={"saves": number, "seconds": 1.5},
    **changes,
  )


def _assert_equal(found, expected):
  found, expected = saved.name_leaves(found), saved.name_leaves(expected)
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    assert found[name].tobytes() == array.tobytes()
    assert found[name].dtype == array.dtype


def test_a_save_is_read_back_bit_by_bit(tmp_path, trees, monkeypatch):
  monkeypatch.setattr(saved, "PIECE_BYTES", 5000)
  folder = _save(tmp_path, trees, attachments={"curves.csv": b"x"})
  assert folder == saved.newest(tmp_path) == saved.newest(folder)
  assert len(list(folder.glob("state_*.bin"))) == 5
  params, others, position = saved.load(folder)
  assert position == {"saves": 1, "seconds": 1.5}
  _assert_equal(saved.fill(trees[0], params), trees[0])
  _assert_equal(saved.fill(trees[1], others), trees[1])
  # Without its last files it is all parameters; with fewer it is nothing.
  (folder / "state_4.bin").unlink()
  params, others, _ = saved.load(folder)
  assert others is None
  _assert_equal(saved.fill(trees[0], params), trees[0])
  (folder / "state_1.bin").unlink()
  with pytest.raises(ValueError, match="it holds parameters"):
    saved.load(folder)


def test_moments_in_fewer_bits(tmp_path, trees):
  folder = _save(tmp_path, trees, moments="bfloat16")
  params, others, _ = saved.load(folder)
  _assert_equal(saved.fill(trees[0], params), trees[0])
  moment = trees[1]["opt_state"]["g"][0]["a"]
  rounded = moment.astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(others["opt_state/g/0/a"], rounded)
  assert np.abs(rounded / moment - 1).max() < 2**-8
  assert others["ema/a"].tobytes() == trees[1]["ema"]["a"].tobytes()


def test_sizes_that_do_not_travel_are_refused(tmp_path, trees):
  mib = 2**20
  saved.check_sizes({f"{i}": 8 * mib for i in range(8)})
  for sizes, message in (
    ({f"{i}": 1 for i in range(9)}, "9 files"),
    ({f"{i}": 14 * mib for i in range(5)}, "70.0 MiB; it may be 8 files of 64"),
    ({"a": 17 * mib}, "a would have 17.0 MiB"),
  ):
    with pytest.raises(ValueError, match=message):
      saved.check_sizes(sizes)
  many = {f"{i}.png": b"x" for i in range(7)}
  with pytest.raises(ValueError, match="9 files") as error:
    _save(tmp_path, trees, attachments=many)
  assert "\n" not in str(error.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", ("rename", "fsync"))
def test_a_kill_while_saving_leaves_the_save_before(
  tmp_path, trees, monkeypatch, moment
):
  first = _save(tmp_path, trees)

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as context:
    context.setattr(saved.os, moment, killed)
    with pytest.raises(KeyboardInterrupt):
      _save(tmp_path, trees, number=2)
  assert saved.newest(tmp_path) == first
  saved.load(first)
  second = _save(tmp_path, trees, number=2)
  assert list(tmp_path.iterdir()) == [second]


def test_damage_and_other_networks_are_told(tmp_path, trees):
  folder = _save(tmp_path, trees)
  params, _, _ = saved.load(folder)
  with pytest.raises(ValueError, match="other networks or settings"):
    saved.fill({"now": {"a": trees[0]["now"]["a"]}}, params)
  with pytest.raises(ValueError, match="now/b is"):
    saved.fill({"now": {"a": trees[0]["now"]["a"], "b": np.zeros(4)}}, params)
  copy = tmp_path / "copy"
  shutil.copytree(folder, copy)
  data = bytearray((copy / "state_0.bin").read_bytes())
  data[99] ^= 1
  (copy / "state_0.bin").write_bytes(data)
  with pytest.raises(ValueError, match="damaged"):
    saved.load(copy)
  (copy / saved.STATE).write_text("{")
  with pytest.raises(ValueError, match="not a save"):
    saved.load(copy)
