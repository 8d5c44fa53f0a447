from egic_jax.cli import info, part_progress


def test_large_pictures_tell_where_they_are(capsys):
  progress = part_progress.PartProgress("a.png")
  for done in range(1, 101):
    progress(done, 100)
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 9
  assert lines[0].startswith("a.png: 10 of 100 parts, ")
  assert lines[-1].startswith("a.png: 90 of 100 parts, ")


def test_small_pictures_are_silent(capsys):
  progress = part_progress.PartProgress("a.png")
  for done in range(1, 11):
    progress(done, 10)
  assert not capsys.readouterr().err


def test_info_names_the_tiles():
  facts = {
    "width": 3000,
    "height": 700,
    "tiles": 3,
    "bytes": 10,
    "bpp": 0.1,
    "header_bytes": 1,
    "version": 2,
    "fingerprint": "00",
  }
  assert "3000 x 700 pixels in 3 tiles" in info._text("a", facts)
  assert "700 pixels\n" in info._text("a", {**facts, "tiles": 1})
