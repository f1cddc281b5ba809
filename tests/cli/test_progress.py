"""What is said about a running study where bars cannot move."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from dpmi.cli import progress
from dpmi.cli.progress import StudyProgress
from dpmi.study import Failure, Machines, Store, measure, parse, run, train_models
from dpmi.study.pool import Report

from ..study.conftest import JUDGED, TINY
from .conftest import Dpmi


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


def test_the_time_left_is_that_of_the_recent_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job takes an hour for what all share, the second a minute, the third has begun."""
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    spec = parse(TINY)
    bars = StudyProgress(spec.name, spec.jobs)
    assert bars.left() is None
    first, second, third, *others = [job.label for job in spec.jobs]
    assert len(others) == 3
    now = 3600.0
    for what in ("training", "enhanced"):
        bars.report(first, what, 1, 1)
    assert bars.left() is None, "nothing but the first job"
    bars.report(first, "measuring", 1, 1)
    now += 20
    bars.report(second, "training", 1, 1)
    assert bars.left() == pytest.approx((5 - 1 / 3) * 60)
    now += 40
    for what in ("enhanced", "measuring"):
        bars.report(second, what, 1, 1)
    assert bars.left() == pytest.approx(4 * 60)
    now += 120
    assert bars.left() == pytest.approx(4 * 180), "the third job takes longer"
    bars.report(third, "training", 1, 1)
    assert bars.left() == pytest.approx((4 - 1 / 3) / ((1 + 1 / 3) / 180))


def test_the_time_left_of_the_study_stands_in_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress, "monotonic", lambda: now)
    spec = parse(TINY)
    bars = StudyProgress(spec.name, spec.jobs)

    def shown() -> str:
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(bars._bars.get_renderable())
        return console.export_text()

    first, second = (job.label for job in spec.jobs[:2])
    bars.report(first, "training", 1, 2)
    assert "-:--:--" in shown()
    for what in ("training", "enhanced", "measuring"):
        bars.report(first, what, 1, 1)
    now = 30.0
    bars.report(second, "training", 1, 1)
    assert "0:07:00" in shown(), "14 stages of 30 seconds"


def test_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, reports=[]) == "0 % done: starting"


def finished_in(work: Callable[[Report], list[Failure]]) -> set[str]:
    """The stages that this work reports as finished."""
    finished: set[str] = set()

    def report(_: str, what: str, done: int, total: int) -> None:
        if done == total:
            finished.add(what)

    assert work(report) == []
    return finished


def test_what_is_reported_as_finished_is_what_the_bars_count(tmp_path: Path) -> None:
    """Also where a study is run a second time, only trained, or only measured."""
    text = JUDGED.replace("seeds = [0, 1]", "seeds = [0]")
    spec = parse(text)
    (job,) = spec.jobs
    store, here = Store.create(tmp_path / "run", text), Machines(workers=1)
    for _ in range(2):
        assert len(finished_in(lambda report: run(spec, store, machines=here, report=report))) == 6
        for record in (tmp_path / "run" / "trials").glob("*"):
            shutil.rmtree(record)
    assert job.stages == 6

    run(spec, store, machines=here)
    for numbers in (tmp_path / "run").glob("*/*/measured.json"):
        numbers.unlink()
    assert len(finished_in(lambda report: measure(spec, store, machines=here, report=report))) == 2
    assert job.measuring_stages == 2

    fresh = Store.create(tmp_path / "trained", text)
    jobs = spec.jobs_on(store.content())
    trained = finished_in(lambda report: train_models(jobs, fresh, machines=here, report=report))
    assert len(trained) == job.training_stages == 1


def test_the_bars_of_match_and_measure_end_at_100_percent(
    dpmi: Dpmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[float] = []

    class Noted(StudyProgress):
        def __exit__(self, *found: object) -> None:
            ends.append(self._bars.tasks[0].percentage)
            super().__exit__(*found)

    monkeypatch.setattr(progress, "StudyProgress", Noted)
    study, out = tmp_path / "study.toml", tmp_path / "out"
    study.write_text(JUDGED.replace("seeds = [0, 1]", "seeds = [0]"), encoding="utf-8")
    assert dpmi("match", study, "--out", out, "--accuracy", 0.9, "--workers", 1).code == 0
    assert dpmi("run", out / "matched.toml", "--out", out, "--workers", 1).code == 0
    for numbers in out.glob("*/*/measured.json"):
        numbers.unlink()
    assert dpmi("measure", out, "--workers", 1).code == 0
    assert ends == [100, 100, 100]
