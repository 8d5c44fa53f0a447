"""Sizes are data: they survive JSON and refuse nonsense."""

import json

import pytest

from egic_jax.models import presets as codec_presets
from egic_jax.models.discriminators import presets


@pytest.mark.parametrize("name", presets.preset_names())
def test_survives_json(name):
  config = presets.get_preset(name)
  text = json.dumps(presets.config_to_dict(config))
  assert presets.config_from_dict(json.loads(text)) == config


@pytest.mark.parametrize("name", presets.preset_names())
def test_fits_the_codec_of_the_same_name(name):
  codec = codec_presets.get_preset(name)
  config = presets.get_preset(name)
  assert config.latent_channels == codec.latent_channels
  assert config.latent_stride == codec.latent_stride


def test_labels_of_the_full_size():
  config = presets.get_preset("full")
  assert (config.num_classes, config.fake_label, config.num_labels) == (
    133,
    134,
    135,
  )


def test_fields_are_changed_by_name():
  config = presets.get_preset("tiny", num_classes=5, normalization="none")
  assert (config.num_labels, config.normalization) == (7, "none")
  with pytest.raises(ValueError, match="classes"):
    presets.get_preset("tiny", classes=5)


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match="full, small, tiny"):
    presets.get_preset("huge")


@pytest.mark.parametrize(
  "change,message",
  [
    ({"num_classes": 0}, "num_classes must be positive"),
    ({"encoder_widths": [128.0] * 6}, "encoder_widths must be positive"),
    ({"encoder_widths": [128] * 5}, "give as many"),
    ({"embedding_width": 32}, "decoder_widths"),
    ({"conditioning": "film"}, "projection, concatenation, none"),
    ({"normalization": "batch"}, "weight, spectral, none"),
    ({"surplus": 1}, "surplus"),
  ],
)
def test_nonsense_is_refused(change, message):
  fields = presets.config_to_dict(presets.get_preset("full")) | change
  with pytest.raises(ValueError, match=message):
    presets.config_from_dict(fields)
