"""Who made a result: the commit of the code, the machine, and the time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dpmi.study import maker


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a package in a checkout of its own, which is taken for that of dpmi."""
    (tmp_path / "package" / "study").mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").touch()
    git(tmp_path, "init")
    monkeypatch.setattr(maker, "__file__", str(tmp_path / "package" / "study" / "maker.py"))
    maker.revision.cache_clear()
    yield tmp_path / "package"
    maker.revision.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(package: Path) -> str:
    git(package, "add", ".")
    git(package, "commit", "--message", "all")
    return git(package, "rev-parse", "HEAD")[:12]


def test_the_revision_is_the_commit_of_the_checkout(package: Path) -> None:
    assert maker.revision() == "", "its files are not in the checkout yet"
    expected = commit(package)
    maker.revision.cache_clear()
    assert maker.revision() == expected
    assert len(expected) == 12


def test_changed_files_are_marked(package: Path) -> None:
    expected = commit(package)
    (package.parent / "notes.txt").touch()
    (package / "untracked.py").touch()
    assert maker.revision() == expected
    maker.revision.cache_clear()
    (package / "__init__.py").write_text("changed = True")
    assert maker.revision() == f"{expected}+"


def test_a_folder_outside_a_checkout_has_no_revision(
    package: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(package)
    installed = tmp_path_factory.mktemp("site-packages")
    monkeypatch.setattr(maker, "__file__", str(installed / "package" / "study" / "maker.py"))
    assert maker.revision() == ""


def test_the_time_is_that_between_start_and_end() -> None:
    finished = maker.started()
    time.sleep(0.05)
    made = finished()
    assert 0.05 <= made["wall_seconds"] < 5
    assert made["cpu_seconds"] < made["wall_seconds"]
    assert made["threads"] == torch.get_num_threads()
    assert made["device"].startswith("cpu (")


def test_one_line_is_the_same_for_the_same_code_and_machine() -> None:
    first, second = maker.started()(), maker.started()()
    second |= {"date": "2000-01-01T00:00:00+00:00", "wall_seconds": 99.0, "threads": first["threads"]}
    assert maker.told(first) == maker.told(second)
    assert maker.told(second | {"threads": 2}).endswith(f"2 threads of {first['device']}")
    assert "(abc+)" in maker.told(second | {"revision": "abc+"})
