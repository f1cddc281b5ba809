"""Chance levels and upper bounds as lines in the panels of a curve.

In a study with linkage, the chance levels are exact and the bounds come from the ledger of each model; see
:mod:`dpmi.study.linkage`. They hold for one attacker and one scorer that are fixed in advance, for the unit class, on
average over random roles.

In other studies only attack accuracy has a line: B(kappa) of :func:`accountants.reconstruction_bound`, where kappa is
the probability of success without the unit. The evaluator assigns every image to one class, so images without
information about the classes are right in at most 1 of K cases on average. But a model without the class still knows
the other K - 1 classes, and an attacker can find the missing one by elimination. kappa = 1/K is therefore an
approximation for many classes, and the label of the line says so. A class has many records or subclasses, so the bound
for one of these does not bound the class. Its line is faint and dotted, and its label states that it does not cover the
class.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dpmi.report.figures.axes import EpsilonAxis
from dpmi.report.figures.style import FAINT, INK
from dpmi.report.numbers.bounds import PRIORS, bounds
from dpmi.report.numbers.tables import rows_of

CHANCE: dict[str, Any] = {"color": FAINT, "linestyle": (0, (1, 3)), "linewidth": 1.2}
FOR_THE_CLASS: dict[str, Any] = {"color": INK, "linestyle": "-", "linewidth": 1.6, "marker": "_", "ms": 9}
FOR_A_PART: dict[str, Any] = {
    "color": FAINT,
    "linestyle": (0, (1, 1)),
    "linewidth": 1.3,
    "marker": "_",
    "ms": 6,
}
LEVELS: dict[str, tuple[str | float | None, str]] = {
    "linkage_top1": ("linkage_chance", "linkage_bound_top1"),
    "linkage_auc": (0.5, "linkage_bound_auc"),
    "identified_gain": (0.0, "identified_bound"),
    "test_accuracy": (None, "accuracy_bound"),
    "unit_auc": (0.5, "unit_bound_auc"),
}
"""Measure -> its chance level, a number or a column of the summary, and the column of its bound."""


def draw_levels(axes: Axes, axis: EpsilonAxis | None, panel: pd.DataFrame, measure: str) -> None:
    """Draw the chance level of a measure, and its bound at the epsilon of every setting that has one.

    Args:
        axes: panel of the measure.
        axis: its axis of epsilon; None for a panel without guarantees.
        panel: rows of :func:`dpmi.report.numbers.tables.summary` with one claim.
        measure: a measure; one without levels, or whose levels are not in the summary, gets no line.
    """
    chance, bound = LEVELS.get(measure, (None, ""))
    if bound not in panel:
        return
    if chance is not None:
        level = float(panel[chance].max()) if isinstance(chance, str) else chance
        axes.axhline(level, **CHANCE, zorder=1.5)
    if axis is not None:
        of_settings = zip(rows_of(panel), panel[bound], strict=True)
        points = sorted((axis.place(row, 0), high) for row, high in of_settings if math.isfinite(row.epsilon))
        # A bound of 1 for every strength is no bound.
        if any(high < 1 for _, high in points):
            axes.plot(*zip(*points, strict=True), **FOR_THE_CLASS, zorder=2)


def draw(
    axes: Axes, axis: EpsilonAxis, panel: pd.DataFrame, trials: pd.DataFrame, *, unit: str, classes: int
) -> None:
    """Draw the bound on the attack accuracy of every setting at its epsilon, in a study without linkage.

    Args:
        axes: panel of attack accuracy against epsilon.
        axis: horizontal axis of the panel.
        panel: rows of :func:`dpmi.report.numbers.tables.summary` with one claim.
        trials: table of :class:`dpmi.study.results.Results`.
        unit: unit of the claim.
        classes: number K of classes.
    """
    of = bounds(trials, (kappa(unit, classes),))
    # The maximum over the seeds holds for every run. An infinite epsilon gives no bound.
    points = sorted(
        (axis.place(row, 0), max(of[trial][0] for trial in row.trials))
        for row in rows_of(panel)
        if math.isfinite(row.epsilon)
    )
    if points:
        axes.plot(*zip(*points, strict=True), **_look(unit), zorder=2)


def draw_chance(axes: Axes, classes: int) -> None:
    """Draw 1/K, the maximum mean attack accuracy of images without information about the classes."""
    axes.axhline(1 / classes, **CHANCE, zorder=1.5)


def level_handles() -> list[Line2D]:
    """Return the legend entries of :func:`draw_levels`."""
    return [
        Line2D([], [], **CHANCE, label="chance, without the model"),
        Line2D([], [], **FOR_THE_CLASS, label="upper bound by the model's own epsilon"),
    ]


def legend_handles(units: list[str], classes: int) -> list[Line2D]:
    """Return the legend entries of :func:`draw_chance`, and of :func:`draw` for each unit."""
    chance = Line2D([], [], **CHANCE, label=f"chance: 1/{classes}")
    return [chance, *(Line2D([], [], **_look(unit), label=_label(unit, classes)) for unit in units)]


def kappa(unit: str, classes: int) -> float:
    """Assumed probability of success without one ``unit``: 1/K for a class, else the largest of ``PRIORS``."""
    return 1 / classes if unit == "class" else max(PRIORS)


def _look(unit: str) -> dict[str, Any]:
    return FOR_THE_CLASS if unit == "class" else FOR_A_PART


def _label(unit: str, classes: int) -> str:
    if unit == "class":
        return f"bound for one class, if kappa = 1/{classes}, an approximation for many classes"
    return f"bound for one {unit}, not its class, if kappa = {kappa(unit, classes):g}"
