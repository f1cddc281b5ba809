"""``dpmi side-effects`` as a user meets it."""

from __future__ import annotations

import hashlib
import inspect
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from dpmi import cli
from dpmi.metrics import robustness
from dpmi.study.side_effects import IMAGES

from ..study.conftest import TINY
from .conftest import Dpmi, is_one_line


@pytest.fixture
def study(dpmi: Dpmi, tmp_path: Path) -> Path:
    """A finished study of one seed."""
    spec = tmp_path / "spec.toml"
    spec.write_text(TINY.replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "0.5"), encoding="utf-8")
    assert dpmi("run", spec, "--out", tmp_path / "study", "--workers", 1).code == 0
    return tmp_path / "study"


def test_writes_table_page_and_plot_and_resumes(dpmi: Dpmi, study: Path) -> None:
    first = dpmi("side-effects", study, "--images", 5, "--workers", 1)
    assert first.code == 0, first.err
    assert first.out == f"side effects: {study / 'side_effects.md'}\n"
    assert (study / "side_effects.png").exists()
    table = pd.read_csv(study / "side_effects.csv")
    assert table["defense"].tolist() == ["none", "class-dp"]
    assert "badnets_success" not in table
    stored = {path: path.stat().st_mtime_ns for path in (study / "side-effects").iterdir()}
    assert len(stored) == 2 * 4

    again = dpmi("side-effects", study, "--images", 5, "--workers", 1, "--backdoor")
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    both = pd.read_csv(study / "side_effects.csv")
    pd.testing.assert_frame_equal(both[list(table)], table)
    assert both["badnets_success"].between(0, 1).all()


def test_a_failure_is_one_line_and_exit_code_1(dpmi: Dpmi, study: Path) -> None:
    path = next(study.glob("models/*/model.pt"))
    torch.save({}, path)  # whole, and of no model
    record = json.loads(path.with_name("record.json").read_text())
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("record.json").write_text(json.dumps(record))
    outcome = dpmi("side-effects", study, "--images", 2, "--workers", 1)
    assert outcome.code == 1
    assert sum("Missing key" in line and line.startswith("dpmi: ") for line in outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--images", "0"), "images must be at least 1, got 0"),
        (("--images", "few"), "Invalid value for '--images': 'few' is not an integer"),
        (("--workers", "0"), "--workers is 0; it must be at least 1"),
    ],
)
def test_wrong_argument(dpmi: Dpmi, study: Path, arguments: tuple[str, str], message: str) -> None:
    outcome = dpmi("side-effects", study, *arguments)
    assert outcome.code == 2
    assert is_one_line(outcome)
    assert message in outcome.err


def test_default_is_that_of_the_library() -> None:
    assert inspect.signature(cli.side_effects.side_effects).parameters["images"].default == IMAGES


def test_no_study(dpmi: Dpmi, tmp_path: Path) -> None:
    outcome = dpmi("side-effects", tmp_path)
    assert outcome.code == 2
    assert is_one_line(outcome)
    assert "holds no study" in outcome.err


def test_without_the_extra(dpmi: Dpmi, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise robustness.PackageNotFoundError(name)

    monkeypatch.setattr(robustness, "version", missing)
    outcome = dpmi("side-effects", study)
    assert outcome.code == 2
    assert outcome.err.strip().endswith("pip install 'dpmi[robustness]'")
    assert not (study / "side-effects").exists()
