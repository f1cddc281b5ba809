"""The picture of a plan: a dot for every row, and the zones of the verdict."""

from __future__ import annotations

import numpy as np
import pytest

from accountants.planner import PlanTable, plan
from accountants.verdict import HOPELESS, USABLE
from dpmi.report.figures.plan import ZONES, draw

pytestmark = pytest.mark.usefixtures("calibrated_once")


def planned(class_sizes: list[int]) -> PlanTable:
    return plan(
        class_sizes=class_sizes,
        target_epsilon=8.0,
        delta=1e-4,
        parameters=7706,
        sampling_rates=(0.2,),
        steps=(100, 200),
        clusters_per_class=(1, 4, 20),
    )


def test_every_row_is_a_dot_on_the_line_of_its_steps() -> None:
    table = planned([60] * 10)
    (axes, *_) = draw(table).axes
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    found = {tuple(np.round(point, 6)) for line in dots for point in np.asarray(line.get_xydata())}
    rows = [table.row(setting, k) for setting in table.best_by_steps for k in (1, 4, 20)]
    assert found == {tuple(np.round((row.buckets, row.noise_norm), 6)) for row in rows}
    labels = [str(line.get_label()).split(":")[0] for line in axes.get_lines()]
    assert [label for label in labels if label.endswith(" steps")] == ["100 steps", "200 steps"]


def test_zones_end_at_the_limits_of_the_verdict() -> None:
    (axes, *_) = draw(planned([60] * 10)).axes
    low, high = axes.get_ylim()
    assert low < USABLE < HOPELESS < high
    shown = [text.get_text() for text in axes.texts]
    assert all(name in shown for name, _ in ZONES)
    boxes = [
        patch.get_path().transformed(patch.get_patch_transform()).get_extents() for patch in axes.patches
    ]
    spans = sorted((box.y0, box.y1) for box in boxes)
    np.testing.assert_allclose(spans, [(low, USABLE), (USABLE, HOPELESS), (HOPELESS, high)])


def test_where_a_bucket_is_one_record_a_line_says_so() -> None:
    for size, drawn in ((20, True), (6000, False)):
        (axes, *_) = draw(planned([size] * 10)).axes
        assert any(text.get_text().endswith("K = 200") for text in axes.texts) is drawn
        assert any(list(line.get_xdata()) == [200, 200] for line in axes.get_lines()) is drawn
