"""Parameter groups: what trains, what is frozen, and back together."""

import numpy as np
import pytest

from egic_jax.training import stages

_PARAMS = {
  "codec": {
    "analysis": {"kernel": np.arange(3.0)},
    "synthesis": {"a/b": np.arange(2.0)},
  },
  "orp": {"kernel": np.ones(1)},
}


def test_split_by_prefix_and_join_again():
  trained, frozen = stages.split_params(_PARAMS, ("codec/synthesis", "orp"))
  assert trained.keys() == {"codec", "orp"}
  assert trained["codec"].keys() == {"synthesis"}
  assert frozen.keys() == {"codec"}
  assert frozen["codec"].keys() == {"analysis"}
  joined = stages.join_params(trained, frozen)
  assert (
    joined["codec"]["synthesis"]["a/b"] is _PARAMS["codec"]["synthesis"]["a/b"]
  )
  assert joined["codec"].keys() == {"analysis", "synthesis"}
  assert joined["orp"]["kernel"] is _PARAMS["orp"]["kernel"]


def test_a_prefix_is_of_whole_names():
  with pytest.raises(ValueError, match="codec/syn names no parameter"):
    stages.split_params(_PARAMS, ("codec/syn",))


def test_unknown_stage_names_those_there_are():
  with pytest.raises(ValueError, match="stage9.*stage1_mse"):
    stages.get_stage("stage9")


def test_stages_are_consistent():
  for name in stages.stage_names():
    stage = stages.get_stage(name)
    assert stage.name == name
    assert stage.updates
    optimizers = [update.optimizer for update in stage.updates]
    assert len(set(optimizers)) == len(optimizers)
    for update in stage.updates:
      assert all(g.split("/")[0] in stage.params for g in update.groups)
