"""Files as torch writes them are read; whatever else they try is refused."""

import hashlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch_files

from egic_jax.interop import torch_pth

ARRAYS = {
  "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
  "features.0.bias": np.float64([0.5, -1.25]),
  "steps": np.array(7, np.int64),
  "half": np.float16([[1.5, 2.5]]),
  "brain": np.array([1.0, -3.0], ml_dtypes.bfloat16),
  "flags": np.array([True, False]),
  "none": np.zeros((0, 4), np.uint8),
}


@pytest.mark.parametrize("write", [torch_files.write, torch_files.write_legacy])
def test_arrays_come_back(write, tmp_path):
  path = tmp_path / "weights.pth"
  write(path, ARRAYS)
  file = torch_pth.read(path)
  assert file.arrays.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    assert file.arrays[name].dtype == array.dtype
    np.testing.assert_array_equal(file.arrays[name], array)
  assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_views_and_shared_storages(tmp_path):
  path = tmp_path / "views.pth"
  values = np.arange(12, dtype=np.float32)
  entries = {
    name: torch_files.tensor("0", "FloatStorage", 12, *view)
    for name, view in (
      ("transposed", ((4, 3), (1, 4))),
      ("part", ((2, 2), (4, 1), 5)),
    )
  }
  torch_files.write_parts(
    path,
    {
      "data.pkl": torch_files.pickled(torch_files.mapping(entries)),
      "data/0": values.tobytes(),
    },
  )
  arrays = torch_pth.read(path).arrays
  np.testing.assert_array_equal(arrays["transposed"], values.reshape(3, 4).T)
  np.testing.assert_array_equal(arrays["part"], [[5, 6], [9, 10]])


def test_big_endian_file(tmp_path):
  path = tmp_path / "big.pth"
  entry = torch_files.tensor("0", "FloatStorage", 2, (2,), (1,))
  torch_files.write_parts(
    path,
    {
      "data.pkl": torch_files.pickled(torch_files.mapping({"a": entry})),
      "byteorder": b"big",
      "data/0": np.array([1.5, -2.0], ">f4").tobytes(),
    },
  )
  np.testing.assert_array_equal(torch_pth.read(path).arrays["a"], [1.5, -2.0])


class _Touch:
  """Its pickle creates a file when a plain unpickler reads it."""

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), "w")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_is_executed(protocol, tmp_path):
  path, trace = tmp_path / "evil.pth", tmp_path / "trace"
  evil = pickle.dumps({"a": _Touch(trace)}, protocol=protocol)
  pickle.loads(evil)["a"].close()
  assert trace.exists()  # The trap works.
  trace.unlink()
  torch_files.write_parts(path, {"data.pkl": evil})
  with pytest.raises(torch_pth.TorchFileError, match=r"evil\.pth"):
    torch_pth.read(path)
  assert not trace.exists()


@pytest.mark.parametrize(
  "module,attribute",
  [
    ("os", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("torch", "load"),
    ("torch._utils", "__builtins__"),
    ("collections", "OrderedDict.__class__"),
  ],
)
@pytest.mark.parametrize("layout", ["zip", "legacy"])
def test_only_known_names(layout, module, attribute, tmp_path):
  path = tmp_path / "evil.pth"
  call = (
    torch_files.name(module, attribute)
    + torch_files.sequence(torch_files.text("true"))
    + b"R"
  )
  evil = torch_files.pickled(torch_files.mapping({"a": call}))
  if layout == "zip":
    torch_files.write_parts(path, {"data.pkl": evil})
  else:
    torch_files.write_legacy(path, ARRAYS)
    data = path.read_bytes()
    start = data.index(b"ccollections")
    path.write_bytes(data[: start - 2] + evil)
  with pytest.raises(
    torch_pth.TorchFileError, match=f"refers to {module}.{attribute}"
  ):
    torch_pth.read(path)


def test_states_are_not_set(tmp_path):
  """BUILD on one of the known functions would change it for good."""
  path = tmp_path / "evil.pth"
  state = (
    b"}(" + torch_files.text("__defaults__") + torch_files.sequence() + b"u"
  )
  body = (
    torch_files.name("torch._utils", "_rebuild_tensor_v2")
    + torch_files.sequence(b"N", state)
    + b"b"
  )
  torch_files.write_parts(path, {"data.pkl": torch_files.pickled(body)})
  with pytest.raises(torch_pth.TorchFileError, match="no mapping"):
    torch_pth.read(path)
  assert torch_pth._rebuild_tensor.__defaults__ is None


@pytest.mark.parametrize(
  "view,message",
  [
    (((3,), (1,)), "beyond"),
    (((2,), (1,), 1), "beyond"),
    (((1000, 1000), (0, 0)), "beyond"),
    (((2,), (-1,)), "malformed"),
    (((2,), (1, 1)), "malformed"),
    (((-2,), (1,)), "malformed"),
  ],
)
def test_views_stay_inside_their_storage(view, message, tmp_path):
  path = tmp_path / "evil.pth"
  entry = torch_files.tensor("0", "FloatStorage", 2, *view)
  torch_files.write_parts(
    path,
    {
      "data.pkl": torch_files.pickled(torch_files.mapping({"a": entry})),
      "data/0": bytes(8),
    },
  )
  with pytest.raises(torch_pth.TorchFileError, match=message):
    torch_pth.read(path)


def test_compressed_parts_are_refused(tmp_path):
  path = tmp_path / "bomb.pth"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("archive/data.pkl", bytes(100_000))
  with pytest.raises(torch_pth.TorchFileError, match="compressed"):
    torch_pth.read(path)


@pytest.mark.parametrize("write", [torch_files.write, torch_files.write_legacy])
def test_damage_is_one_line(write, tmp_path):
  path = tmp_path / "weights.pth"
  write(path, ARRAYS)
  data = path.read_bytes()
  rng = np.random.default_rng(0)
  for _ in range(60):
    damaged = bytearray(data)
    if rng.random() < 0.5:
      damaged = damaged[: rng.integers(len(data))]
    else:
      damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(damaged)
    try:
      torch_pth.read(path)  # Values of the old layout have no checksum.
    except torch_pth.TorchFileError as error:
      assert "\n" not in str(error) and "weights.pth" in str(error)


@pytest.mark.parametrize("data", [b"", b"no weights at all", b"\x80\x02K\x01."])
def test_foreign_file(data, tmp_path):
  path = tmp_path / "foreign.pth"
  path.write_bytes(data)
  with pytest.raises(torch_pth.TorchFileError, match="no torch file"):
    torch_pth.read(path)


def test_digest_is_checked(tmp_path):
  path = tmp_path / "weights.pth"
  torch_files.write(path, ARRAYS)
  digest = torch_pth.read(path).sha256
  for good in (digest, digest[:8], digest.upper()):
    torch_pth.read(path, good)
  wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
  with pytest.raises(torch_pth.TorchFileError, match=f"is {digest}, not"):
    torch_pth.read(path, wrong)
  with pytest.raises(ValueError, match="at least 8"):
    torch_pth.read(path, digest[:7])


def test_no_such_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    torch_pth.read(tmp_path / "none.pth")
