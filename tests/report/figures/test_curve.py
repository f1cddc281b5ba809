from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpmi.report.figures import curve
from dpmi.study.results import Results

from ..conftest import (
    BLANK,
    CLASS_DP,
    PUBLIC_MEAN,
    PUBLIC_NEAREST,
    SETTINGS,
    drawn,
    make_results,
    with_evaluator,
)

INFINITE = ("subclass-dp", "subclass-dp, noise 0", 0.0, "subclass", 1e-3, (math.inf,) * 4, 1.3, 0.96)
REGULARIZER = ("nls", "nls, -0.05", -0.05, "none", math.nan, (math.inf,) * 4, 1.5, 0.93)


def grid(figure: Figure, block: int = 0, rows: int = 3) -> np.ndarray:
    """The axes of one attack: rows are measures, columns are panels."""
    axes = figure.subfigs[block].axes
    return np.array(axes, dtype=object).reshape(rows, len(axes) // rows)


def places(axes: Axes) -> list[float]:
    """Where the means are drawn: markers with a white edge."""
    return sorted(
        float(x)
        for line in axes.lines
        if line.get_markeredgecolor() == "white"
        for x in np.asarray(line.get_xdata())
    )


def levels(axes: Axes) -> list[float]:
    """Heights of the horizontal lines that cross the whole panel."""
    return [float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1]]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()]


def test_one_panel_per_unit_and_it_says_so(results: Results):
    bottom = grid(drawn(curve, results))[-1]
    assert [axes.get_xlabel() for axes in bottom] == [
        "epsilon for one record (replace-one, delta = 1e-5, tight)",
        "epsilon for one subclass (replace-one, delta = 1e-3, tight)",
    ]


def test_no_panel_mixes_units(results: Results):
    for row in grid(drawn(curve, results)):
        record, subclass = row
        assert places(record) == pytest.approx([1.02, 2.843, 9.84])
        assert places(subclass) == pytest.approx([4.466, 5.440, 15.924])
        assert record.get_xscale() == subclass.get_xscale() == "log"


def test_another_delta_is_another_panel(results: Results):
    trials = results.trials.copy()
    trials.loc[trials["label"] == "record-dp, noise 1", "delta"] = 1e-6
    bottom = grid(drawn(curve, Results(**(vars(results) | {"trials": trials}))))[-1]
    labels = [axes.get_xlabel() for axes in bottom]
    assert len(labels) == 3
    assert "epsilon for one record (replace-one, delta = 1e-6, tight)" in labels


def test_rows_share_their_vertical_axis(results: Results):
    for row in grid(drawn(curve, results)):
        assert row[0].get_ylim() == row[1].get_ylim()


def test_baselines_and_the_undefended_model_cross_every_distance_panel(results: Results):
    undefended = results.trials.loc[results.trials["defense"] == "none", "distance"].mean()
    for axes in grid(drawn(curve, results))[0]:
        assert levels(axes) == pytest.approx([undefended, BLANK, PUBLIC_MEAN, PUBLIC_NEAREST])


def test_an_infinite_epsilon_has_a_tick_of_its_own_past_every_finite_one():
    axes = grid(drawn(curve, make_results(settings=(*SETTINGS, INFINITE))))[-1, 1]
    assert axes.get_xticklabels()[-1].get_text() == "∞"
    assert places(axes)[-1] == pytest.approx(axes.get_xticks()[-1])
    assert axes.get_xlim()[1] > places(axes)[-1] > 15.924 * 1.3


@pytest.mark.parametrize(
    ("epsilons", "ticks"),
    [((155.4,), ["155"]), ((152.0, 191.0), ["152", "191"]), ((5.0, 43.0), ["5", "10", "20", "50"])],
)
def test_few_epsilons_still_have_a_scale(epsilons: tuple[float, ...], ticks: list[str]):
    settings = [(*CLASS_DP[0][:5], (epsilon,) * 4, *CLASS_DP[0][6:]) for epsilon in epsilons]
    named = [(row[0], f"class-dp, {i}", float(i), *row[3:]) for i, row in enumerate(settings)]
    axes = grid(drawn(curve, make_results(settings=(SETTINGS[0], *named))))[-1, 0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ticks


def test_only_infinite_epsilons_still_make_a_panel():
    axes = grid(drawn(curve, make_results(settings=(SETTINGS[0], INFINITE))))[-1, 0]
    assert axes.get_xticklabels()[-1].get_text() == "∞"


def test_defences_without_a_guarantee_have_names_instead_of_epsilons():
    bottom = grid(drawn(curve, make_results(settings=(*SETTINGS, REGULARIZER))))[-1]
    assert [label.get_text() for label in bottom[2].get_xticklabels()] == ["nls, -0.05"]
    assert bottom[2].get_xlabel() == ""


def test_the_undefended_model_alone_still_makes_a_picture():
    panels = grid(drawn(curve, make_results(seeds=[0], settings=SETTINGS[:1])))
    assert panels.shape == (3, 1)
    assert [label.get_text() for label in panels[-1, 0].get_xticklabels()] == ["none"]


def test_each_attack_has_its_block_and_one_seed_is_said_to_be_one():
    figure = drawn(curve, make_results(seeds=[0], attacks=("mi-face", "gmi")))
    titles = [block.get_suptitle() for block in figure.subfigs]
    assert titles == [
        "Attack mi-face on digits, mlp (one seed, so no intervals over seeds)",
        "Attack gmi on digits, mlp (one seed, so no intervals over seeds)",
    ]


def test_labels_stay_inside_the_picture():
    figure = drawn(curve, make_results(settings=(*SETTINGS, INFINITE, REGULARIZER)))
    figure.draw_without_rendering()
    width, height = figure.canvas.get_width_height()
    for axes in figure.subfigs[0].axes:
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 >= 0
                assert box.y0 >= 0
                assert box.x1 <= width
                assert box.y1 <= height


JUDGED = with_evaluator(make_results(settings=(*SETTINGS, *CLASS_DP, INFINITE, REGULARIZER)))


def test_an_evaluator_adds_a_row_of_attack_accuracy():
    figure = drawn(curve, JUDGED)
    row = grid(figure, rows=4)[2]
    trials = JUDGED.trials
    undefended = trials.loc[trials["defense"] == "none", "attack_accuracy"].mean()
    for axes in row:
        assert levels(axes) == pytest.approx([undefended, 1 / 10])
        assert axes.get_ylim() == (-0.04, 1.04)
    assert row[0].get_ylabel().startswith("Attack accuracy")
    means = [
        line.get_ydata()[0]
        for line in row[2].lines
        if line.get_markeredgecolor() == "white" and line.get_marker() != "None"
    ]
    measured = trials[trials["defense"] == "class-dp"].groupby("label")["attack_accuracy"].mean()
    assert sorted(means) == pytest.approx(sorted(measured))
    assert "chance: 1/10" in legend(figure)


@pytest.mark.parametrize("settings", [CLASS_DP, SETTINGS, (*SETTINGS, *CLASS_DP, REGULARIZER)], ids=len)
def test_the_legend_stays_inside_the_picture(settings: tuple):
    figure = drawn(curve, with_evaluator(make_results(settings=settings)))
    figure.draw_without_rendering()
    box = figure.subfigs[0].legends[0].get_window_extent()
    width, height = figure.canvas.get_width_height()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
