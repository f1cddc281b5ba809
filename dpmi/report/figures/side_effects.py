"""``side_effects.png``: adversarial and backdoor robustness of the models of a study."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpmi.metrics.backdoor import TRIGGERS
from dpmi.metrics.robustness import ATTACKS
from dpmi.report.figures.axes import NameAxis
from dpmi.report.figures.style import DPI, INK, MARKERS, PALETTE, frame
from dpmi.report.numbers.side_effects import NAMES
from dpmi.report.numbers.tables import rows_of

STYLES = dict(zip(NAMES, zip(PALETTE, MARKERS, strict=False), strict=True))
"""Colour and marker of each attack, the same in every panel."""


class _Line(NamedTuple):
    """Label and style of one measure."""

    text: str
    color: str
    marker: str
    hollow: bool = False


def draw(summarized: pd.DataFrame, title: str) -> Figure:
    """Draw accuracy under attack, targeted success and, if measured, backdoor success of every setting."""
    under_attack = {f"{name}_accuracy": _Line(NAMES[name], *STYLES[name]) for name in ATTACKS}
    targeted = {f"{name}_targeted": _Line(NAMES[name], *STYLES[name]) for name in ATTACKS}
    backdoor = {
        f"{name}_{kind}": _Line(f"{NAMES[name]}{', not poisoned' * hollow}", *STYLES[name], hollow=hollow)
        for name in TRIGGERS
        for kind, hollow in (("success", False), ("unpoisoned", True))
    }
    panels = [
        (
            "Accuracy under attack\nmore robust →",
            {"test_accuracy": _Line("no attack", INK, "X")} | under_attack,
        ),
        ("Targeted success\n← more robust", targeted),
        ("Backdoor success\n← more robust", backdoor),
    ]
    panels = [(name, lines) for name, lines in panels if any(line in summarized for line in lines)]
    figure = Figure(
        figsize=(max(7.2, 2.6 + 0.8 * len(summarized)), 1.2 + 2.4 * len(panels)),
        dpi=DPI,
        layout="constrained",
    )
    axis = NameAxis(summarized["label"])
    for (name, lines), axes in zip(
        panels, figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], strict=True
    ):
        frame(axes)
        _panel(
            axes,
            axis,
            summarized,
            {measure: line for measure, line in lines.items() if measure in summarized},
        )
        axis.dress(axes)
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel(name, fontsize=9)
        axes.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, frameon=False)
    seeds = sorted({int(count) for count in summarized["seeds"]})
    spread = "one seed, so no intervals" if seeds == [1] else "95 % intervals over seeds"
    figure.suptitle(f"{title} ({spread})", fontsize=11, color=INK)
    return figure


def _panel(axes: Axes, axis: NameAxis, summarized: pd.DataFrame, lines: dict[str, _Line]) -> None:
    for place, (measure, line) in enumerate(lines.items()):
        shift = 0.6 * ((place + 0.5) / len(lines) - 0.5)
        x = [axis.place(row, 0.0) + shift for row in rows_of(summarized)]
        mean, low, high = (summarized[c] for c in (measure, f"{measure}_low", f"{measure}_high"))
        axes.errorbar(
            x,
            mean,
            [(mean - low).fillna(0.0), (high - mean).fillna(0.0)],
            fmt=line.marker,
            color=line.color,
            markersize=5.5,
            markerfacecolor="white" if line.hollow else line.color,
            capsize=2,
            elinewidth=1.2,
            label=line.text,
        )
