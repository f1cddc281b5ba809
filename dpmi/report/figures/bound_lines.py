"""The reconstruction bound as a line in the panel of attack accuracy.

B(kappa) bounds the success of any attack against ONE unit of privacy, if the attack succeeds with probability at most
kappa without that unit. Attack accuracy is about classes, so the two can be compared only if the unit is a class. The
evaluator assigns every image to one class, so images without information about the classes are right in at most 1 of K
cases on average; kappa = 1/K assumes that an attack without the class does no better. B is concave, so for means over
classes it is enough that the mean of the success probabilities is 1/K.

A class has many records or subclasses, so the bound for one of these does not bound the class. Its line is faint and
dotted, and its label states that it does not cover the class.
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


def draw(
    axes: Axes, axis: EpsilonAxis, panel: pd.DataFrame, trials: pd.DataFrame, *, unit: str, classes: int
) -> None:
    """Draw the bound of every setting at its epsilon.

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
        return f"bound for one class, if kappa = 1/{classes} (chance)"
    return f"bound for one {unit}, not its class, if kappa = {kappa(unit, classes):g}"
