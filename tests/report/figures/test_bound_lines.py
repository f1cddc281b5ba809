"""The reconstruction bound in a picture of attack accuracy."""

from __future__ import annotations

import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dpmi.report.figures import curve
from dpmi.report.numbers.strongest import with_strongest
from dpmi.study.results import Results

from ..conftest import CLASS_DP, SETTINGS, drawn, make_results, with_linkage
from .test_curve import JUDGED, grid, legend, levels


def bound(axes: Axes) -> Line2D | None:
    """The line of the reconstruction bound: its points are dashes."""
    found = [line for line in axes.lines if line.get_marker() == "_" and line.get_linestyle() != "None"]
    return found[0] if found else None


def test_the_bound_of_a_class_is_at_chance_and_over_its_own_epsilons():
    figure = drawn(curve, JUDGED)
    line = bound(grid(figure, rows=4)[2, 2])
    assert line is not None
    above = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert list(above) == pytest.approx([5.0, 13.0, 43.0])
    # Sampling rate 0.2, noise 1.6, 200 steps, kappa 0.1: confirmed by Monte Carlo on the likelihood ratio.
    assert above[13.0] == pytest.approx(0.717, abs=5e-4)
    assert list(above.values()) == sorted(above.values())
    assert "bound for one class, if kappa = 1/10, an approximation for many classes" in legend(figure)


def test_the_bound_of_a_subclass_looks_unlike_that_of_a_class_and_says_what_it_is():
    figure = drawn(curve, JUDGED)
    lines = [bound(axes) for axes in grid(figure, rows=4)[2]]
    record, subclass, of_class, none = lines
    assert none is None
    assert record is not None
    assert subclass is not None
    assert of_class is not None
    for line in (record, subclass):
        assert line.get_linestyle() != of_class.get_linestyle()
        assert line.get_color() != of_class.get_color()
    # The model without noise has no bound, and nothing is drawn past the break.
    assert list(subclass.get_xdata()) == pytest.approx([4.466, 5.440, 15.924])
    for unit in ("record", "subclass"):
        assert f"bound for one {unit}, not its class, if kappa = 0.1" in legend(figure)


def test_linkage_has_its_chance_and_the_bound_of_its_own_epsilon():
    linked = with_linkage(make_results(settings=(SETTINGS[0], SETTINGS[1], *CLASS_DP)), {})
    figure = drawn(curve, linked)
    top1, auc, advantage, accuracy = grid(figure, rows=4)
    for axes in top1:
        assert 1 / 6 in levels(axes)
    for axes in auc:
        assert 0.5 in levels(axes)
    record, of_class = top1
    assert bound(record) is None
    line = bound(of_class)
    assert line is not None
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(
        {5.0: 0.3, 13.0: 0.46, 43.0: 1.0}
    )
    assert bound(auc[1]).get_ydata()[0] == pytest.approx(0.9)
    assert bound(accuracy[1]).get_ydata()[0] == pytest.approx(0.95)
    assert all(bound(axes) is None for axes in advantage)
    assert {"chance, without the model", "upper bound by the model's own epsilon"} <= set(legend(figure))
    assert "blank image" not in legend(figure), "the distance is not drawn"


def test_the_bound_of_linkage_is_not_that_of_the_best_of_several_attacks():
    linked = with_linkage(make_results(attacks=("a", "b"), settings=(SETTINGS[0], *CLASS_DP)), {})
    strongest = with_strongest(linked)
    figure = drawn(curve, strongest)
    top1, _, _, accuracy = grid(figure, rows=4)
    assert bound(top1[0]) is None
    assert bound(accuracy[0]) is not None
    assert bound(grid(figure, block=1, rows=4)[0, 0]) is not None


def test_without_an_evaluator_there_is_neither_bound_nor_chance(results: Results):
    figure = drawn(curve, results)
    assert all(bound(axes) is None for axes in grid(figure).ravel())
    assert not [text for text in legend(figure) if "chance" in text or "bound" in text]
