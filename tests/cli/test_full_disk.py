"""A disk that is full: one line says so, nothing half-written is left, and with more room the study goes on.

Modules: dpmi/cli/studies.py, dpmi/study/store.py, dpmi/whole_files.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from ..study.conftest import TINY, comparable, run_study
from .conftest import Dpmi

SIZE = 4 * 2**20
STUDY = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")


def mount(folder: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of that size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder):
        pytest.skip("a small disk cannot be mounted here: this needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# From a disk on which nothing can be written to one on which all but the last files can.
@pytest.mark.parametrize(
    "free", [16, *(pytest.param(free, marks=pytest.mark.slow) for free in (0, 64, 192, 384))]
)
def test_a_full_disk(disk: Path, tmp_path: Path, dpmi: Dpmi, free: int) -> None:
    out = disk / "study"
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(SIZE - free * 1024))
    outcome = dpmi("run", file, "--out", out, "--workers", "1")
    lines = [line for line in outcome.err.splitlines() if "% done" not in line]
    assert outcome.code in (1, 2)
    assert lines
    for line in lines:
        assert line.startswith("dpmi: ")
        assert "No space left on device" in line
        assert str(out) in line, "it names the file or the folder"
        assert len(line) < 400
    assert not list(disk.rglob(".partial-*"))

    ballast.unlink()
    assert dpmi("run", file, "--out", out, "--workers", "1").code == 0
    _, whole = run_study(STUDY, tmp_path / "whole")
    found = pd.read_parquet(out / "trials.parquet")
    pd.testing.assert_frame_equal(comparable(found), comparable(whole.trials), check_exact=True)
