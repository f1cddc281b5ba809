from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from dpmi.report.figures import tradeoff
from dpmi.report.numbers import pairs, tables
from dpmi.report.write import write
from dpmi.study.results import Results

from ..conftest import SETTINGS, drawn, make_results

NINE_NAMES = (
    *("mid", "bido-coco", "bido-hsic", "transfer", "label-smoothing"),
    *("calor", "trapdoor", "erasing", "transfer+bido-hsic"),
)
NINE = tuple(
    (name, f"{name}, {k}", k, "none", math.nan, (math.inf,) * 4, 1.2 + 0.05 * place * k, 0.97 - 0.01 * k)
    for place, name in enumerate(NINE_NAMES)
    for k in (1.0, 2.0)
)


def panels(results: Results) -> list[Axes]:
    return list(drawn(tradeoff, results).axes)


def front(axes: Axes) -> list[tuple[float, float]]:
    (line,) = (line for line in axes.lines if line.get_gid() == "front")
    assert line.get_drawstyle() == "steps-pre"
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def test_the_drawn_front_is_that_of_each_measure(results: Results):
    table = tables.summary(results)
    for axes, measure, sign in zip(panels(results), ("distance", "advantage"), (1, -1), strict=True):
        chosen = table[pairs.on_front(table["test_accuracy"], sign * table[measure])].sort_values(
            "test_accuracy"
        )
        assert front(axes) == list(zip(chosen["test_accuracy"], chosen[measure], strict=True))
        assert 2 <= len(chosen) < len(table)


def test_what_is_dominated_is_paler(results: Results):
    axes = panels(results)[0]
    best = set(front(axes))
    marked = [line for line in axes.lines if line.get_markeredgecolor() == "white"]
    assert len(marked) == len(SETTINGS)
    for line in marked:
        (point,) = [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        assert line.get_alpha() == (1.0 if point in best else tradeoff.PALE)
    undefended = [line for line in marked if line.get_marker() == tradeoff.UNDEFENDED_MARKER]
    assert len(undefended) == 1


def test_nine_defences_are_told_apart_and_the_legend_covers_nothing():
    figure = drawn(tradeoff, make_results(settings=(SETTINGS[0], *NINE), attacks=("enhanced", "mi-face")))
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()][-2:] == ["undefended model", "Pareto front"]
    looks = {(h.get_color(), h.get_marker(), str(h.get_linestyle())) for h in legend.legend_handles[:9]}  # type: ignore[union-attr]
    assert len(looks) == 9
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert len(figure.axes) == 4
    for axes in figure.axes:
        assert not box.overlaps(axes.get_tightbbox())


def test_one_seed_has_no_error_bars_over_seeds(results: Results):
    """The advantage keeps its interval over classes."""
    bars = [
        [len(bar.lines[2]) for bar in axes.containers]  # type: ignore[attr-defined]
        for each in (results, make_results(seeds=[0]))
        for axes in panels(each)
    ]
    assert [set(panel) for panel in bars] == [{2}, {2}, {0}, {1}]


def test_shown_only_where_two_defences_are_compared(tmp_path: Path):
    write(make_results(settings=SETTINGS[:4]), tmp_path)
    assert not (tmp_path / "tradeoff.png").exists()
    assert "Pareto" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "tradeoff" not in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_a_matched_study_says_so_first(results: Results, tmp_path: Path):
    page = write(replace(results, matched_on="accuracy 0.95"), tmp_path).read_text(encoding="utf-8")
    said = "Strengths matched on accuracy 0.95, measured on the same test set."
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").split("\n\n")[2] == said
    assert said in page.split("</header>")[0]
    assert "strengths matched on accuracy 0.95. Mean over" in page
