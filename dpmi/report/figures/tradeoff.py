"""``tradeoff.png``: robustness against accuracy, one curve per defence, and the Pareto front.

One row of panels per attack. Models further right are more accurate. The Pareto front connects the models whose means
no other model dominates; all other models are pale.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dpmi.report import words
from dpmi.report.figures.style import DPI, FAINT, INK, MARKERS, PALETTE, frame
from dpmi.report.numbers.pairs import on_front
from dpmi.report.numbers.tables import has_evaluator, has_linkage, rows_of
from dpmi.study.results import Results

COLORS = (*PALETTE, "#882255", "#332288", "#999933")
"""The last three are Tol's wine, indigo and olive."""
PALE = 0.3
UNDEFENDED_MARKER = "*"
DASHES = ("solid", (0, (4, 1.5)))
"""Line styles: the second is for defences that reuse a colour."""
LEGEND_COLUMNS = 4
LINKED = {"linkage_top1": -1}
"""Measure -> sign, as for PANELS, of a study with linkage."""
PANELS = {"distance": 1, "advantage": -1}
"""Measure -> +1 if larger is safer, -1 if smaller is safer."""
RECOGNISED = {"attack_accuracy": -1}
"""The same, for the measure of the evaluator."""


Style: TypeAlias = tuple[str, str, Any]
"""Colour, marker and dashes."""


def draw(results: Results, table: pd.DataFrame) -> Figure:
    """Draw the figure.

    Args:
        results: results of the study.
        table: their :func:`~dpmi.report.numbers.tables.summary`.
    """
    attacks = list(table["attack"].unique())
    styles = _styles([name for name in table["defense"].unique() if name != "none"])
    handles = _legend_handles(table, styles)
    rows = math.ceil(len(handles) / LEGEND_COLUMNS)
    panels = {
        **(LINKED if has_linkage(results) else {}),
        **(RECOGNISED if has_evaluator(results) else {}),
        **PANELS,
    }
    figure = Figure(
        figsize=(5.5 * len(panels), 0.5 + 0.22 * rows + 4.3 * len(attacks)), dpi=DPI, layout="constrained"
    )
    grid: np.ndarray = figure.subplots(len(attacks), len(panels), squeeze=False)
    kind = words.DISTANCES[results.trials["distance_kind"].iloc[0]]
    names = {
        "linkage_top1": "Linkage, top-1   ← safer",
        "attack_accuracy": "Attack accuracy   ← safer",
        "distance": f"MIA distance   safer →\n{kind}",
        "advantage": "Advantage   ← safer\n0: no gain from the model",
    }
    for attack, line in zip(attacks, grid, strict=True):
        mine = table[table["attack"] == attack]
        for (measure, sign), axes in zip(panels.items(), line, strict=True):
            frame(axes)
            _panel(axes, mine, measure, sign, styles)
            axes.set_ylabel(names[measure], fontsize=9)
            if measure in RECOGNISED or measure in LINKED:
                axes.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")
            axes.set_xlabel("Test accuracy   better →", fontsize=9)
            axes.xaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")
            axes.set_title(f"Attack {attack}", fontsize=10, color=INK)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), LEGEND_COLUMNS),
        fontsize=8.5,
        frameon=False,
    )
    return figure


def _styles(defenses: list[str]) -> dict[str, Style]:
    """Assign colour, marker and dashes; no two defences share all three."""
    return {
        name: (
            COLORS[place % len(COLORS)],
            MARKERS[place % len(MARKERS)],
            DASHES[place // len(COLORS) % len(DASHES)],
        )
        for place, name in enumerate(defenses)
    }


def _panel(axes: Axes, table: pd.DataFrame, measure: str, sign: int, styles: dict[str, Style]) -> None:
    known = table.dropna(subset=["test_accuracy", measure])
    front = on_front(known["test_accuracy"], sign * known[measure])
    known = known.assign(front=front)
    for name, rows in known.groupby("defense", sort=False):
        color, marker, dashes = styles.get(str(name), (INK, UNDEFENDED_MARKER, "solid"))
        in_order = rows.sort_values("strength")
        axes.plot(
            in_order["test_accuracy"],
            in_order[measure],
            color=color,
            linestyle=dashes,
            linewidth=1.3,
            alpha=PALE,
            zorder=2,
        )
        for row in rows_of(rows):
            x, y = row.test_accuracy, getattr(row, measure)
            strong = 1.0 if row.front else PALE
            axes.errorbar(
                x,
                y,
                xerr=_reach(row, "test_accuracy"),
                yerr=_reach(row, measure),
                color=color,
                capsize=2,
                linewidth=1,
                alpha=strong,
                zorder=2.5,
            )
            size = 12 if name == "none" else 7
            axes.plot(
                x, y, marker, color=color, markersize=size, alpha=strong, mec="white", mew=0.7, zorder=4
            )
    if measure == "advantage":
        axes.axhline(0.0, color=FAINT, linewidth=0.9, zorder=1.5)
    _front(axes, known[known["front"]], measure)


def _reach(row: Any, measure: str) -> list[list[float]] | None:
    """Lower and upper half of the interval, as for errorbar; None without an interval."""
    mean, low, high = (getattr(row, f"{measure}{end}") for end in ("", "_low", "_high"))
    return None if math.isnan(low) else [[mean - low], [high - mean]]


def _front(axes: Axes, rows: pd.DataFrame, measure: str) -> None:
    """Draw the front as steps: every point on their worse side is dominated by a model at a corner."""
    ordered = rows.sort_values("test_accuracy")
    axes.plot(
        ordered["test_accuracy"],
        ordered[measure],
        drawstyle="steps-pre",
        color=FAINT,
        linestyle=(0, (1, 1.5)),
        linewidth=1.6,
        zorder=1.8,
        gid="front",
    )


def _legend_handles(table: pd.DataFrame, styles: dict[str, Style]) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker=marker,
            linestyle=dashes,
            mec="white",
            mew=0.7,
            markersize=7,
            label=name,
        )
        for name, (color, marker, dashes) in styles.items()
    ]
    if "none" in set(table["defense"]):
        handles.append(
            Line2D(
                [],
                [],
                color=INK,
                marker=UNDEFENDED_MARKER,
                linestyle="",
                markersize=11,
                label="undefended model",
            )
        )
    handles.append(Line2D([], [], color=FAINT, linestyle=(0, (1, 1.5)), linewidth=1.6, label="Pareto front"))
    return handles
