"""Sizes are data: they survive JSON and refuse nonsense."""

import dataclasses
import json

import pytest

from egic_jax.models import presets


@pytest.mark.parametrize("name", presets.preset_names())
def test_survives_json(name):
  config = presets.get_preset(name)
  text = json.dumps(presets.config_to_dict(config))
  assert presets.config_from_dict(json.loads(text)) == config


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match="full, small, tiny"):
    presets.get_preset("huge")


@pytest.mark.parametrize(
  "change,message",
  [
    ({"num_slices": 7}, "must divide"),
    ({"head_width": 48}, "head_width"),
    ({"hyper_width": -192}, "positive"),
    ({"hyper_width": 192.0}, "positive whole"),
    ({"analysis_depths": [2, 2]}, "4 entries"),
    ({"surplus": 1}, "surplus"),
    ({"rate_levels": 1}, "rate_levels"),
  ],
)
def test_nonsense_is_refused(change, message):
  fields = presets.config_to_dict(presets.get_preset("full")) | change
  with pytest.raises(ValueError, match=message):
    presets.config_from_dict(fields)


def test_levels_are_described_only_where_there_are_any():
  # Fingerprints of models of one rate are older than levels.
  config = presets.get_preset("tiny")
  assert "rate_levels" not in presets.config_to_dict(config)
  config = dataclasses.replace(config, rate_levels=4)
  fields = presets.config_to_dict(config)
  assert fields["rate_levels"] == 4
  assert presets.config_from_dict(fields) == config
