"""``layers.png``: layers on which classification and inversion depend ([TL-DMI] Fig. 1-II).

One panel per defence and attack. Bars of one colour sum to 100 %, because the two kinds of information have no common
unit.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpmi.report.figures.style import DPI, FAINT, INK, PALETTE, frame
from dpmi.report.numbers.layers import TASKS
from dpmi.report.numbers.tables import rows_of

COLORS = dict(zip(TASKS, PALETTE, strict=False))
BAR = 0.4
"""Width of a bar, as a fraction of the distance between layers."""
INCHES_PER_LETTER = 0.075
"""Width of a letter in the name of a layer."""


def draw(table: pd.DataFrame) -> Figure:
    """Draw the figure: a row of panels per defence, a column per attack.

    Args:
        table: table of :func:`dpmi.report.numbers.layers.mean_shares`.
    """
    labels, attacks = list(table["label"].unique()), list(table["attack"].unique())
    width = max(4.2, 0.9 + 0.5 * int(table.groupby(["label", "attack"], sort=False).size().max()))
    named = [_names(panel, width) for _, panel in table.groupby(["label", "attack"], sort=False)]
    height = 2.1 + INCHES_PER_LETTER * max(len(name) for names in named for name in names)
    figure = Figure(figsize=(width * len(attacks), 0.8 + height * len(labels)), dpi=DPI, layout="constrained")
    grid: np.ndarray = figure.subplots(len(labels), len(attacks), sharey=True, squeeze=False)
    for line, label in zip(grid, labels, strict=True):
        for axes, attack in zip(line, attacks, strict=True):
            panel = table[(table["label"] == label) & (table["attack"] == attack)]
            if panel.empty:  # an interrupted study
                axes.set_axis_off()
                continue
            _bars(axes, panel)
            names = _names(panel, width)
            turned = "\n" not in names[0]
            axes.set_xticks(range(len(names)), names, rotation=90 if turned else 0, fontsize=8)
            axes.set_xlabel("layer, first to last", fontsize=9, color=FAINT)
            axes.set_title(f"{label}, under {attack}", fontsize=10, color=INK)
        line[0].set_ylabel("share of the\nFisher information", fontsize=9)
        line[0].yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")
    grid[0, 0].set_ylim(bottom=0)  # for all panels, which share it; only after every bar is drawn
    handles, tasks = next(axes for axes in grid.flat if axes.containers).get_legend_handles_labels()
    figure.legend(handles, tasks, loc="outside lower center", ncols=len(TASKS), fontsize=9, frameon=False)
    seeds = sorted(table["seeds"].unique())
    spread = "one seed" if seeds == [1] else f"{seeds[-1]} seeds, 95 % intervals"
    figure.suptitle(f"Which layers a task depends on ({spread})", fontsize=11, color=INK)
    return figure


def _bars(axes: Axes, panel: pd.DataFrame) -> None:
    places = np.arange(len(panel))
    for side, (task, color) in zip((-0.5, 0.5), COLORS.items(), strict=True):
        mean, low, high = (panel[column].to_numpy() for column in (task, f"{task}_low", f"{task}_high"))
        axes.bar(places + side * BAR, mean, BAR, color=color, label=task)
        if (panel["seeds"] > 1).any():
            axes.errorbar(
                places + side * BAR,
                mean,
                np.stack([mean - low, high - mean]),
                fmt="none",
                ecolor=INK,
                elinewidth=1,
                capsize=2,
            )
    frame(axes)


def _names(panel: pd.DataFrame, inches: float) -> list[str]:
    """Labels of the bars: two lines if these fit side by side, else one line, to be rotated."""
    pairs = [(row.layer, row.kind) for row in rows_of(panel)]
    longest = max(len(part) for pair in pairs for part in pair)
    fits = longest * INCHES_PER_LETTER < 0.8 * inches / len(pairs)
    return [("\n" if fits else "  ").join(pair) for pair in pairs]
