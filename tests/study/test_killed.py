"""Commands that are killed again and again, at random moments, leave what an uninterrupted one leaves.

Modules: dpmi/study/match.py, dpmi/study/results.py, dpmi/study/run.py, dpmi/study/store.py.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dpmi.study import Store, gather, parse

from .conftest import TINY, comparable

pytestmark = pytest.mark.slow

KILLS = 25  # of each command
WORKERS = ("--workers", "2")
LONG = TINY.replace("[0, 1]", "[0, 1, 2]").replace("= 5", "= 400")
OPEN = TINY.replace("noise_multiplier = [0.5, 1.0]\n", "noise_multiplier = [0.05, 20.0]\n")
Command = Callable[[Path], Sequence[str]]


def begin(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "dpmi.cli", *arguments], stdout=subprocess.DEVNULL)


def tables(folder: Path) -> tuple[str, str]:
    """All that a study's folder says, but for the clock; the decimals of a number are all of it."""
    store = Store.open(folder)
    found = gather(parse(store.spec_text), store)
    return comparable(found.trials).to_csv(), found.per_class.to_csv()


def check_killed(
    command: Command, start: Callable[[Path], None], folder: Path, outcome: Callable[[Path], object]
) -> None:
    """Kill it so many times, in what it left before; whenever it reaches the end, look, and start over.

    Args:
        command: its arguments, for a folder.
        start: makes the folder as it is before the command.
        folder: where all this takes place.
        outcome: what the command is for; tables, or a text.
    """
    start(folder)
    began = time.monotonic()
    assert begin(command(folder)).wait() == 0
    whole, seconds = outcome(folder), time.monotonic() - began
    chance = random.Random(0)
    kills = ends = 0

    def same() -> None:
        assert outcome(folder) == whole
        assert not list(folder.rglob(".partial-*"))

    shutil.rmtree(folder)
    start(folder)
    while kills < KILLS:
        process = begin(command(folder))
        try:
            assert process.wait(timeout=chance.uniform(0.2, 1.1) * seconds) == 0
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        same()
        ends += 1
        shutil.rmtree(folder)
        start(folder)
    assert begin(command(folder)).wait() == 0
    same()


def study_file(folder: Path, text: str) -> str:
    path = folder.with_name("study.toml")
    path.write_text(text, encoding="utf-8")
    return str(path)


def nothing(folder: Path) -> None:
    """A command that makes its folder."""


def test_run(tmp_path: Path) -> None:
    file, folder = study_file(tmp_path / "it", LONG), tmp_path / "it"
    check_killed(lambda out: ("run", file, "--out", str(out), *WORKERS), nothing, folder, tables)


def test_measure(tmp_path: Path) -> None:
    file, finished = study_file(tmp_path / "it", LONG), tmp_path / "finished"
    assert begin(("run", file, "--out", str(finished), *WORKERS)).wait() == 0

    def start(folder: Path) -> None:
        shutil.copytree(finished, folder)
        for measured in folder.rglob("measured.json"):
            measured.unlink()

    check_killed(lambda out: ("measure", str(out), *WORKERS), start, tmp_path / "it", tables)


def test_match(tmp_path: Path) -> None:
    file = study_file(tmp_path / "it", OPEN)

    def command(out: Path) -> Sequence[str]:
        return ("match", file, "--accuracy", "0.8", "--tolerance", "0.05", "--out", str(out), *WORKERS)

    check_killed(command, nothing, tmp_path / "it", lambda out: (out / "matched.toml").read_text())


def test_run_on_a_ray_cluster(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    file, folder = study_file(tmp_path / "it", LONG), tmp_path / "it"
    command = ("run", file, "--executor", "ray")
    check_killed(lambda out: (*command, "--out", str(out), *WORKERS), nothing, folder, tables)
