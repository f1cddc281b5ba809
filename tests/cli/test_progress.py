"""What is said about a running study where bars cannot move."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from dpmi.cli import progress
from dpmi.cli.progress import StudyProgress
from dpmi.study import Machines, Store, parse, run

from ..study.conftest import JUDGED, TINY


def said(capsys: pytest.CaptureFixture[str], *, reports: list[tuple[str, str, int, int]]) -> str:
    """The first line that is printed after these reports."""
    spec = parse(TINY)
    with StudyProgress(spec.name, spec.jobs) as bars:
        for report in reports:
            bars.report(*report)
        capsys.readouterr()
        deadline = time.monotonic() + 5
        text = ""
        while "\n" not in text and time.monotonic() < deadline:
            time.sleep(0.01)
            text += capsys.readouterr().err
    return text.splitlines()[0]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_HEARTBEAT_SECONDS", 0.05)


def test_a_line_is_not_wrapped(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    jobs = parse(TINY).jobs
    line = said(capsys, reports=[(job.label, "training", 1, 4) for job in jobs])
    assert all(f"{job.label}: training" in line for job in jobs)


def test_the_whole_counts_training_and_attacks(capsys: pytest.CaptureFixture[str]) -> None:
    """Six jobs of three stages: one is finished, another is half through its training."""
    reports = [
        ("none, seed 0", "training", 1, 1),
        ("none, seed 0", "enhanced", 1, 1),
        ("none, seed 0", "measuring", 1, 1),
        ("none, seed 1", "training", 10, 20),
    ]
    line = said(capsys, reports=reports)
    assert line.startswith(f"{100 * (1 + 0.5 / 3) / 6:.0f} % done")
    assert line.endswith(": none, seed 1: training")


def test_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, reports=[]) == "0 % done: starting"


def test_priors_and_the_evaluator_are_stages_of_their_own(tmp_path: Path) -> None:
    """What a run reports as finished is what the bars count, also where it is run a second time."""
    text = JUDGED.replace("seeds = [0, 1]", "seeds = [0]")
    spec = parse(text)
    (job,) = spec.jobs
    store = Store.create(tmp_path, text)
    for _ in range(2):
        finished: set[str] = set()

        def report(_: str, what: str, done: int, total: int, finished: set[str] = finished) -> None:
            if done == total:
                finished.add(what)

        assert run(spec, store, machines=Machines(workers=1), report=report) == []
        assert len(finished) == job.stages == 6
        for record in (tmp_path / "trials").glob("*"):
            shutil.rmtree(record)
