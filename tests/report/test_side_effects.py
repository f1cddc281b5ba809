"""The table and the plot of side effects.

Modules: dpmi/report/figures/side_effects.py, dpmi/report/numbers/side_effects.py, dpmi/report/page/side_effects.py,
dpmi/report/write.py.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from dpmi.report.figures import side_effects
from dpmi.report.numbers.side_effects import summary
from dpmi.report.page.side_effects import tables
from dpmi.report.write import write_side_effects


@pytest.fixture
def table() -> pd.DataFrame:
    """Two settings; three seeds of the first, one of the other, which has no backdoor."""
    rows = [
        {"label": "none", "seed": seed, "test_accuracy": 0.9, "fgsm_accuracy": accuracy, "fgsm_targeted": 0.5}
        | {"badnets_accuracy": 0.8, "badnets_success": 0.7, "badnets_unpoisoned": 0.1}
        for seed, accuracy in enumerate((0.2, 0.3, 0.4))
    ]
    other = {"label": "a | b", "seed": 0, "test_accuracy": 0.6, "fgsm_accuracy": 0.55, "fgsm_targeted": 0.0}
    return pd.DataFrame([*rows, other])


def test_summary_has_student_intervals_over_seeds(table: pd.DataFrame) -> None:
    first, second = summary(table).to_dict("records")
    half = stats.t.ppf(0.975, 2) * 0.1 / 3**0.5
    found = [first[f"fgsm_accuracy{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([0.3, 0.3 - half, 0.3 + half])
    assert (first["label"], first["seeds"]) == ("none", 3)
    assert second["fgsm_accuracy"] == 0.55
    assert pd.isna(second["fgsm_accuracy_low"])
    assert pd.isna(second["badnets_success"])


def test_files(table: pd.DataFrame, tmp_path: Path) -> None:
    page = write_side_effects(table, "mine", tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "side_effects.csv"), table)
    assert (tmp_path / "side_effects.png").read_bytes().startswith(b"\x89PNG")
    lines = page.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ").splitlines()
    assert "| none | 3 | 90.0 % [90.0, 90.0] | 30.0 % [5.2, 54.8] | 50.0 % [50.0, 50.0] |" in lines
    assert "| a \\| b | 1 | 60.0 % | 55.0 % | 0.0 % |" in lines
    assert "| a \\| b | 1 | 60.0 % | – | – | – |" in lines


def test_plot_has_a_panel_for_what_was_measured(table: pd.DataFrame) -> None:
    summarized = summary(table)
    panels = side_effects.draw(summarized, "mine").axes
    assert len(panels) == 3
    assert panels[0].get_legend_handles_labels()[1] == ["no attack", "FGSM"]
    assert panels[2].get_legend_handles_labels()[1] == ["BadNets", "BadNets, not poisoned"]
    without = summary(table.drop(columns=[c for c in table if str(c).startswith("badnets")]))
    assert len(side_effects.draw(without, "mine").axes) == 2
    assert len(tables(without)) == 1
