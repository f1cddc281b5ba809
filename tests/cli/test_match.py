"""``dpmi match`` as a user meets it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ..study.conftest import TINY
from .conftest import Dpmi, is_one_line

OPEN = (
    TINY.replace("steps = 20", "steps = 60")
    .replace("noise_multiplier = [0.5, 1.0]\n", "noise_multiplier = [0.01, 2.0]\n")
    .replace("[0, 1]", "[0]")
)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "open.toml"
    path.write_text(OPEN, encoding="utf-8")
    return path


def test_match_and_run_what_it_says(dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out folder"
    outcome = dpmi("match", study, "--out", out, "--accuracy", 0.7, "--tolerance", 0.05, "--workers", 1)
    assert (outcome.code, outcome.err) == (0, "")
    heading, none, private, last = outcome.out.splitlines()
    assert heading.split() == ["defence", "strength", "test", "accuracy", "trials"]
    assert none.split()[:2] == ["none", "–"]
    assert private.split()[:2] == ["class-dp", "noise_multiplier"]
    command = last.removeprefix("run the matched study, which reuses these models: ")
    assert shlex.split(command) == ["dpmi", "run", str(out / "matched.toml"), "--out", str(out)]
    models = {path: path.stat().st_mtime_ns for path in out.glob("models/*/record.json")}
    assert len(models) >= 4

    ran = dpmi(*shlex.split(command)[1:], "--workers", 1)
    assert (ran.code, ran.err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/record.json")} == models
    first_lines = (out / "summary.md").read_text(encoding="utf-8").split("\n\n")[:3]
    assert "accuracy 0.7" in first_lines[2]

    # Again: nothing is left to train.
    assert (
        dpmi("match", study, "--out", out, "--accuracy", 0.7, "--tolerance", 0.05, "--workers", 1) == outcome
    )
    assert {path: path.stat().st_mtime_ns for path in out.glob("models/*/record.json")} == models


def test_epsilon_trains_nothing(dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
    outcome = dpmi("match", study, "--out", tmp_path / "out", "--epsilon", 8)
    assert (outcome.code, outcome.err) == (0, "")
    assert "one class (replace-one, delta = 1e-2, tight)" in outcome.out
    assert 'matched_on = "epsilon 8"' in (tmp_path / "out" / "matched.toml").read_text(encoding="utf-8")
    assert list((tmp_path / "out" / "models").iterdir()) == []


def test_a_failed_defence_is_told_and_left_out(dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
    text = OPEN.replace("max_grad_norm = 1.0", "max_grad_norm = 1.0\ntraining = { learning_rate = 1e38 }")
    study.write_text(text, encoding="utf-8")
    outcome = dpmi("match", study, "--out", tmp_path / "out", "--accuracy", 0.7, "--workers", 1)
    assert outcome.code == 1
    assert is_one_line(outcome)
    assert outcome.err.startswith("dpmi: class-dp, noise multiplier 0.01, seed 0: FloatingPointError: ")
    assert "class-dp" not in (tmp_path / "out" / "matched.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give exactly one of --accuracy and --epsilon"),
        (("--accuracy", "0.9", "--epsilon", "8"), "give exactly one of --accuracy and --epsilon"),
        (("--accuracy", "97"), "accuracy must be in (0, 1), a share, not a percentage; got 97.0"),
        (("--accuracy", "0.9", "--tolerance", "0"), "tolerance must be in (0, 0.5)"),
        (("--accuracy", "0.9", "--trials", "2"), "trials must be at least 3"),
        (("--accuracy", "0.9", "--workers", "0"), "--workers is 0; it must be at least 1"),
        (("--accuracy", "much"), "'much' is not a number"),
        (("--epsilon", "0"), "target_epsilon must be above 0, got 0.0"),
    ],
)
def test_mistakes(dpmi: Dpmi, study: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    outcome = dpmi("match", study, "--out", tmp_path / "out", *options)
    assert outcome.code == 2
    assert is_one_line(outcome)
    assert message in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_unknown_data_set_is_told_with_the_file(dpmi: Dpmi, study: Path, tmp_path: Path) -> None:
    study.write_text(OPEN.replace('"digits"', '"digit"'), encoding="utf-8")
    outcome = dpmi("match", study, "--out", tmp_path / "out", "--accuracy", 0.9)
    assert outcome.code == 2
    assert outcome.err.startswith(f"dpmi: {study}: data.name: unknown name 'digit'; did you mean 'digits'?")
    assert not (tmp_path / "out").exists()
