"""Files that are written while the next one is worked on."""

import threading
import time

import pytest

from egic_jax.cli import file_lists


def test_writes_beside_the_next_file(capsys):
  second_begun = threading.Event()

  def convert(source, target):
    if source == "b":
      second_begun.set()

    def write():
      # The first is not written before the second is worked on.
      assert second_begun.wait(20)

    return file_lists.Unwritten(f"{source} > {target}", write, 1)

  pairs = [("a", "A"), ("b", "B"), ("c", "C")]
  assert file_lists.each("test", pairs, convert) == 0
  lines = capsys.readouterr().err.splitlines()
  assert lines == ["[1/3] a > A", "[2/3] b > B", "[3/3] c > C"]


def test_what_cannot_be_written_is_told_in_its_place(capsys):
  def convert(source, target):
    if source == "c":
      raise ValueError("c is not a file of this kind")
    if source == "d":
      return "d is done already"

    def write():
      if source == "b":
        raise OSError("no space left on the device")

    return file_lists.Unwritten(source, write, 1)

  pairs = [(name, name.upper()) for name in "abcde"]
  assert file_lists.each("test", pairs, convert) == 1
  assert capsys.readouterr().err.splitlines() == [
    "[1/5] a",
    "egic test: error: b: no space left on the device",
    "egic test: error: c is not a file of this kind",
    "[4/5] d is done already",
    "[5/5] e",
    "egic test: 2 of 5 failed",
  ]


@pytest.mark.parametrize("held", [1, file_lists._MOST_HELD])
def test_few_wait_in_memory(monkeypatch, held):
  monkeypatch.setattr(file_lists, "_WRITERS", 3)
  waiting, most = set(), 0
  lock = threading.Lock()

  def convert(source, target):
    nonlocal most
    del target
    with lock:
      waiting.add(source)
      most = max(most, len(waiting))

    def write():
      time.sleep(0.01)  # Long beside what `convert` takes.
      with lock:
        waiting.remove(source)

    return file_lists.Unwritten(source, write, held)

  pairs = [(str(k), "") for k in range(40)]
  assert file_lists.each("test", pairs, convert, quiet=True) == 0
  assert not waiting
  assert most <= (4 if held == 1 else 2)
