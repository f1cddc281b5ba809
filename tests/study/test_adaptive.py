"""Studies whose attacker knows the defences.

Modules: dpmi/report/numbers/survival.py, dpmi/study/grid.py, dpmi/study/results.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dpmi.report.numbers import survival
from dpmi.report.write import write
from dpmi.study import parse

from .conftest import JUDGED, comparable, run_study, trials_of

DEFENDED = '[[defenses]]\nname = "mid"\nbeta = 0.01\n\n[[defenses]]\nname = "calor"\nrank = 4\n\n'
KNOWN = (
    JUDGED.replace('model = "softmax"', 'model = "cnn-small"\nadaptive = true')
    .replace("learning_rate = 0.5\n", "learning_rate = 0.05\n")
    .replace("seeds = [0, 1]", "seeds = [0]")
    .replace("[[attacks]]", DEFENDED + "[[attacks]]", 1)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    return run_study(KNOWN, tmp_path_factory.mktemp("adaptive"))


def test_every_adaptation_is_a_trial_of_its_own() -> None:
    trials, unaware = trials_of(KNOWN), trials_of(KNOWN.replace("adaptive = true", ""))
    adapted = {trial.key for trial in trials if trial.adaptation is not None}
    # Of two attacks; three adaptations of mid, four of calor, and the logit loss of no defence.
    assert len(adapted) == 2 * (1 + 3 + 4)
    assert {trial.key for trial in trials} - adapted == {trial.key for trial in unaware}
    (job,) = (job for job in parse(KNOWN).jobs if job.defense.name == "mid" and job.seed == 0)
    assert [trial.what for trial in job.trials] == [
        f"{attack}{way}"
        for attack in ("enhanced", "gmi")
        for way in ("", ", logit loss", ", averaged noise", ", mean forward")
    ]


def test_trials_say_what_the_attacker_knew(finished) -> None:
    _, results = finished
    assert len(results.trials) == results.planned == 2 * (2 + 4 + 5)
    ways = results.trials.groupby("defense")["adaptation"].unique().map(set)
    assert ways["none"] == {"", "logit loss"}
    assert ways["mid"] == {"", "logit loss", "averaged noise", "mean forward"}
    assert ways["calor"] == {"", "logit loss", "no Tanh", "linear head", "matched confidence"}
    mid = results.trials[(results.trials["defense"] == "mid") & (results.trials["attack"] == "enhanced")]
    calls = mid.groupby("adaptation")["grad_calls"].first()
    assert calls["averaged noise"] == 8 * calls[""] == 8 * calls["mean forward"]


def test_report_shows_what_is_left_of_each_defence(finished, tmp_path: Path) -> None:
    _, results = finished
    write(results, tmp_path)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "Gain, adaptive attacks included" in text
    assert len(survival.adapted(results)) == 2 * (1 + 3 + 4)
    assert list(survival.survival(results)["label"]) == ["mid, beta 0.01", "calor, rank 4"]


def test_a_resumed_study_is_the_uninterrupted_one(finished, tmp_path: Path) -> None:
    _, results = finished
    unaware = run_study(KNOWN.replace("adaptive = true", ""), tmp_path)[0]
    (unaware.root / "study.toml").write_text(KNOWN, encoding="utf-8")
    _, again = run_study(KNOWN, tmp_path)
    assert comparable(again.trials).equals(comparable(results.trials))
