"""A ``--plot`` file is refused first, or written whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from dpmi.cli import figure_file

STARTS = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", figure_file.SUFFIXES)
def test_a_picture_takes_the_place_of_an_older_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    path.write_bytes(b"older")
    figure_file.check(path)
    assert path.read_bytes() == b"older"
    figure_file.save(Figure(), path)
    assert path.read_bytes().startswith(STARTS[suffix])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["run", "run.jpg", "folder.png", "missing/run.png", "file/run.png"])
def test_where_no_picture_can_be_written_the_path_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=rf"^--plot is {tmp_path / name}"):
        figure_file.check(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_that_fails_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: Figure, path: Path, **__: Any) -> None:
        path.write_bytes(b"\x89PN")
        raise OSError("no space left on device")

    path = tmp_path / "run.png"
    path.write_bytes(b"older")
    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(OSError, match="no space"):
        figure_file.save(Figure(), path)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
