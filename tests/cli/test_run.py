"""``dpmi run`` and ``dpmi report``: a study end to end, one that fails, and the presets."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from dpmi.cli import studies

from ..study.conftest import TINY
from .conftest import Dpmi, is_one_line


def test_presets_are_studies_that_parse() -> None:
    from dpmi.study import parse

    assert "digits" in studies.PRESETS
    for preset in studies.PRESETS:
        assert parse(studies._PRESETS.joinpath(f"{preset}.toml").read_text(encoding="utf-8")).name == preset


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
