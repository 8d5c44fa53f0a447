"""Files of LPIPS as handed out become parameters, or the error says why."""

import lpips_arrays
import numpy as np
import pytest
import torch_files

from egic_jax.interop import lpips_weights, torch_pth


@pytest.fixture(scope="module")
def alex():
  return lpips_arrays.files("alex")


@pytest.fixture
def paths(alex, tmp_path):
  names = tmp_path / "classifier.pth", tmp_path / "alex.pth"
  # Handed out in the old layout and in the new.
  torch_files.write(names[0], alex[0])
  torch_files.write_legacy(names[1], alex[1])
  return names


def test_both_ways_to_name_the_arrays_are_the_same(alex, paths):
  loaded = lpips_weights.load(paths)
  whole = lpips_arrays.whole("alex")
  # As the whole network's state has them.
  whole["scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float32)
  whole["lins.0.model.1.weight"] = whole["lin0.model.1.weight"]
  params = lpips_weights.from_arrays(whole, "alex")
  assert params.keys() == loaded.params.keys()
  for layer, leaves in params.items():
    for leaf, array in leaves.items():
      np.testing.assert_array_equal(loaded.params[layer][leaf], array)
  kernel = alex[0]["features.3.weight"]
  assert params["conv_3"]["kernel"][1, 2, 3, 4] == kernel[4, 3, 1, 2]


def test_description_has_version_and_digests(paths):
  loaded = lpips_weights.load(paths)
  assert loaded.sha256.keys() == {"classifier.pth", "alex.pth"}
  assert "v0.1" in loaded.describe()
  assert loaded.sha256["alex.pth"][:12] in loaded.describe()


def test_missing_file_says_what_to_download(tmp_path):
  for paths in ([], [tmp_path / "alexnet-owt-7be5be79.pth"]):
    with pytest.raises(lpips_weights.LpipsWeightsError) as info:
      lpips_weights.load(paths, "alex")
    message = str(info.value)
    assert "\n" not in message
    for part in ("alexnet-owt-7be5be79.pth", "v0.1/alex.pth", "weight to 0"):
      assert part in message
    assert "nothing has to be converted" in message


def test_digest_in_the_name_or_given_is_checked(paths):
  renamed = paths[0].with_name("alexnet-owt-7be5be79.pth")
  paths[0].rename(renamed)
  with pytest.raises(lpips_weights.LpipsWeightsError, match="another file"):
    lpips_weights.load([renamed, paths[1]])
  # A digest that is given takes precedence over the name's.
  right = {renamed.name: torch_pth.read(renamed).sha256}
  lpips_weights.load([renamed, paths[1]], sha256=right)
  with pytest.raises(lpips_weights.LpipsWeightsError, match=r"alex\.pth"):
    lpips_weights.load(
      [renamed, paths[1]], sha256=right | {"alex.pth": "00000000"}
    )
  with pytest.raises(lpips_weights.LpipsWeightsError, match="no such file"):
    lpips_weights.load(
      [renamed, paths[1]], sha256=right | {"other.pth": "00000000"}
    )


def test_missing_unknown_and_misshapen_are_named(alex):
  arrays = alex[0] | alex[1]
  del arrays["lin3.model.1.weight"]
  arrays["features.6.weight"] = arrays["features.6.weight"][:1]
  arrays["features.12.weight"] = np.zeros(3, np.float32)
  with pytest.raises(lpips_weights.LpipsWeightsError) as info:
    lpips_weights.from_arrays(arrays, "alex")
  message = str(info.value)
  assert "1 missing: lin3.model.1.weight;" in message
  assert "1 unknown: features.12.weight;" in message
  assert "1 misshapen: features.6.weight (1, 192, 3, 3) instead" in message


def test_weights_of_the_other_network(alex):
  with pytest.raises(lpips_weights.LpipsWeightsError, match="LPIPS vgg"):
    lpips_weights.from_arrays(alex[0] | alex[1], "vgg")


def test_non_finite_is_refused(alex):
  bad = np.full_like(alex[1]["lin0.model.1.weight"], np.inf)
  with pytest.raises(lpips_weights.LpipsWeightsError, match=r"lin0\.model"):
    lpips_weights.from_arrays(
      alex[0] | alex[1] | {"lin0.model.1.weight": bad}, "alex"
    )
