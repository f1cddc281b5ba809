"""``dpmi layers`` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from dpmi.cli import app
from dpmi.study import StoreError

from ..study.conftest import TINY, run_study

STUDY = TINY.replace('"softmax"', '"cnn-small"').replace("[0, 1]", "[0]").replace("[0.5, 1.0]", "1.0")
PNG = b"\x89PNG\r\n\x1a\n"


def test_figure_and_table_for_a_study_and_for_one_trial(tmp_path: Path) -> None:
    store, results = run_study(STUDY, tmp_path / "out")
    result = CliRunner().invoke(app, ["layers", str(store.root)])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(store.root / "layers.csv", dtype={"layer": str})
    assert len(table) == 2 * 4
    assert (store.root / "layers.png").read_bytes().startswith(PNG)
    *lines, figure = result.stdout.splitlines()
    assert figure == f"figure: {store.root / 'layers.png'}"
    assert len(lines) == 1 + 2 * 4
    first = table.iloc[0]
    shown = [f"{first.classification_share:.1%}", f"{first.inversion_share:.1%}"]
    assert lines[1].split() == ["none", "enhanced", "0", "Conv2d", "160", *shown]

    trial = results.trials["trial"].iloc[1]
    result = CliRunner().invoke(app, ["layers", str(store.root), "--trial", trial])
    assert result.exit_code == 0, result.output
    alone = pd.read_csv(store.root / "trials" / trial / "layers.csv", dtype={"layer": str})
    pd.testing.assert_frame_equal(alone, table[table["trial"] == trial].reset_index(drop=True))
    assert (store.root / "trials" / trial / "layers.png").read_bytes().startswith(PNG)


def test_no_study_and_no_such_trial(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["layers", str(tmp_path)])
    assert isinstance(result.exception, StoreError)
    (tmp_path / "study.toml").write_text(STUDY, encoding="utf-8")
    result = CliRunner().invoke(app, ["layers", str(tmp_path)])
    with pytest.raises(StoreError, match="no finished trial yet"):
        raise result.exception or AssertionError(result.output)
