"""A file or folder is there whole, or what was there before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dpmi import whole_files
from dpmi.whole_files import PARTIAL, replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "a.txt"
    final.write_text("old")
    with replacing(final) as temporary:
        temporary.write_text("new")
        assert final.read_text() == "old"
        assert temporary.name.startswith(PARTIAL)
        assert temporary.parent == tmp_path
    assert final.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    final.mkdir()
    (final / "old").touch()
    with replacing(final) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert names(final) == ["old"]
    assert names(final) == ["new"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path: Path, folder: bool) -> None:
    final = tmp_path / "a"
    final.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(final) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "half").touch()
        else:
            temporary.write_text("half")
        raise KeyboardInterrupt
    assert final.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_it_is_on_the_disk_before_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content first, and then its name, which is in the folder."""
    final, synced = tmp_path / "a", []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, final.exists()))
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(final) as temporary:
        temporary.write_text("new")
    (content, before), (folder, after) = synced
    assert content.startswith(PARTIAL)
    assert (before, folder, after) == (False, tmp_path.name, True)
    synced.clear()
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "b").touch()
        (temporary / "c").touch()
    assert sorted(name for name, _ in synced[:2]) == ["b", "c"]
    assert synced[2][0].startswith(PARTIAL)


def test_windows_flushes_what_it_can_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may be written to, and no folder; here only the calls are those of Windows."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        plain(descriptor)

    monkeypatch.setattr(whole_files, "_WINDOWS", True)
    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "b").write_text("new")
        (temporary / "c").write_text("new")
    assert modes == [os.O_RDWR, os.O_RDWR]
    assert (tmp_path / "folder" / "b").read_text() == "new"
