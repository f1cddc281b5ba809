"""What all commands share: ``list``, ``--help``, an interruption, and mistakes, each told in one line.

Modules: dpmi/cli/__init__.py, dpmi/cli/arguments.py, dpmi/cli/output.py, dpmi/cli/studies.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from accountants import ACCOUNTANTS
from dpmi import attacks, data, defenses, metrics, models
from dpmi.cli import studies

from ..study.conftest import TINY
from .conftest import Dpmi, check_mistake


def test_list_names_everything(dpmi: Dpmi) -> None:
    outcome = dpmi("list")
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split() for line in outcome.out.splitlines()]
    everything = [
        *data.names(),
        *defenses.names(),
        *attacks.names(),
        *metrics.METRICS,
        *models.names(),
        *ACCOUNTANTS.names(),
    ]
    assert len(everything) > 20
    # The first row of a kind begins with the kind, and nothing is wrapped into a row of its own.
    kinds = [["data", "sets"], ["defences"], ["attacks"], ["metrics"], ["models"], ["accountants"]]
    found = []
    for row in rows[1:]:
        kind = next((k for k in kinds if row[: len(k)] == k), [])
        found.append(row[len(kind)])
        assert len(row) > len(kind) + 1, "a name without a description"
    assert found == everything


def test_an_interrupted_command_says_so(dpmi: Dpmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "_study", interrupted)
    outcome = dpmi("curve", "--out", str(tmp_path / "study"))
    assert outcome.code == 130
    assert outcome.err.startswith("dpmi: interrupted; finished trials are stored")


def test_help_and_no_command(dpmi: Dpmi) -> None:
    outcome = dpmi("--help")
    assert outcome.code == 0
    assert all(
        command in outcome.out for command in ("epsilon", "statement", "curve", "run", "report", "list")
    )
    outcome = dpmi()
    assert outcome.code == 2
    assert "epsilon" in outcome.out
    assert outcome.err == "dpmi: give a command\n"


class TestMistakes:
    def test_unknown_command(self, dpmi: Dpmi) -> None:
        check_mistake(dpmi("curves"), "No such command 'curves'")

    def test_unknown_data(self, dpmi: Dpmi, tmp_path: Path) -> None:
        outcome = dpmi("curve", "--data", "nonsense", "--out", tmp_path / "out")
        check_mistake(outcome, "--data is 'nonsense'; it must be one of", "digits")
        assert not (tmp_path / "out").exists()

    def test_missing_study(self, dpmi: Dpmi, tmp_path: Path) -> None:
        check_mistake(
            dpmi("run", tmp_path / "no.toml"),
            "no.toml cannot be read: No such file or directory; give a TOML",
        )

    def test_misspelt_key(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace("seeds", "sedes"), encoding="utf-8")
        check_mistake(
            dpmi("run", study, "--out", tmp_path / "out"),
            "study.toml: study: unknown key 'sedes'; did you mean 'seeds'?",
        )
        study.write_text(TINY.replace("iterations", "iteration"), encoding="utf-8")
        outcome = dpmi("run", study, "--out", tmp_path / "out")
        check_mistake(outcome, "unknown key 'iteration'; did you mean 'iterations'? (known: regularizer,")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("below", ["file", "file/deeper"])
    def test_unwritable_out(self, dpmi: Dpmi, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        outcome = dpmi("curve", "--out", tmp_path / below)
        check_mistake(
            outcome, f"output folder {tmp_path / below} cannot be written: ", "give a writable folder"
        )

    def test_out_of_somebody_else(self, dpmi: Dpmi, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("")
        check_mistake(
            dpmi("curve", "--out", tmp_path), f"{tmp_path} is not empty", "give an empty or a new folder"
        )

    def test_data_root_without_the_data(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, root = tmp_path / "study.toml", tmp_path / "empty"
        root.mkdir()
        study.write_text(TINY.replace('"digits"', '"mnist"'), encoding="utf-8")
        check_mistake(dpmi("run", study, "--out", tmp_path / "out", "--data-root", root), str(root), "mnist")

    def test_option_that_the_data_do_not_have(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace('"digits"', '"digits"\noptions = { sede = 1 }'), encoding="utf-8")
        check_mistake(dpmi("run", study, "--out", tmp_path / "out"), "no option 'sede'; its options are seed")

    def test_model_that_does_not_fit(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study = tmp_path / "study.toml"
        study.write_text(TINY.replace('"softmax"', '"cnn"'), encoding="utf-8")
        check_mistake(
            dpmi("run", study, "--out", tmp_path / "out"), "model 'cnn'", "at least 14", "(1, 8, 8)"
        )

    @pytest.mark.parametrize(
        ("workers", "message"),
        [("0", "--workers is 0; it must be at least 1"), ("two", "'--workers': 'two' is not an integer")],
    )
    def test_workers(self, dpmi: Dpmi, tmp_path: Path, workers: str, message: str) -> None:
        check_mistake(dpmi("curve", "--workers", workers, "--out", tmp_path / "out"), message)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_report_on_no_study(self, dpmi: Dpmi, tmp_path: Path, name: str) -> None:
        check_mistake(
            dpmi("report", tmp_path / name),
            "holds no study: it has no study.toml; give the folder of a study",
        )

    def test_report_on_a_study_that_never_ran(self, dpmi: Dpmi, tmp_path: Path) -> None:
        (tmp_path / "study.toml").write_text(TINY, encoding="utf-8")
        check_mistake(dpmi("report", tmp_path), "no finished trial yet; run the study first")
