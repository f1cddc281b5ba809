"""``side_effects.csv``, ``.md`` and ``.png``: how robust the models of a study are, beside what it protects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpmi.metrics import student_interval
from dpmi.metrics.backdoor import TRIGGERS
from dpmi.metrics.robustness import ATTACKS
from dpmi.report import cells, words
from dpmi.report.axes import INK, NameAxis
from dpmi.report.curve import DPI, MARKERS, PALETTE, frame
from dpmi.report.tables import rows_of

NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "bim": "BIM",
    "one_pixel": "one pixel",
    "badnets": "BadNets",
    "blended": "Blended",
}
STYLES = dict(zip(NAMES, zip(PALETTE, MARKERS, strict=False), strict=True))
"""Colour and marker of each attack, in every panel."""
SHARE = (0.0, 1.0)


class _Line(NamedTuple):
    """How one measure is drawn."""

    text: str
    color: str
    marker: str
    hollow: bool = False


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per setting of a defence: the mean of every measure over seeds, with a 95 % Student interval.

    Args:
        table: of :func:`dpmi.study.side_effects.gather_side_effects`.
    """
    measures = [c for c in _measures() if c in table]
    rows = []
    for label, models in table.groupby("label", sort=False):
        row: dict[str, Any] = {"label": label, "seeds": len(models)}
        for measure in measures:
            values = student_interval(models[measure], SHARE)
            row |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), values, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def tables(summarized: pd.DataFrame) -> list[cells.Table]:
    """The adversarial table, and that of backdoors if any was tried; from :func:`summary`."""
    adversarial = {"test_accuracy": "Test accuracy"}
    adversarial |= {f"{name}_accuracy": f"{NAMES[name]}: accuracy" for name in ATTACKS}
    adversarial |= {f"{name}_targeted": f"{NAMES[name]}: targeted success" for name in ATTACKS}
    backdoor = {"test_accuracy": "Test accuracy, not poisoned"}
    for name in TRIGGERS:
        backdoor |= {
            f"{name}_accuracy": f"{NAMES[name]}: test accuracy",
            f"{name}_success": f"{NAMES[name]}: success",
            f"{name}_unpoisoned": f"{NAMES[name]}: success, not poisoned",
        }
    found = [
        _table(
            summarized,
            adversarial,
            "Adversarial robustness: accuracy under an untargeted attack (higher is more robust), and share of images "
            "that a targeted attack gives the label of the next class (lower is more robust). Means over seeds with "
            "95 % Student intervals.",
            "FGSM, PGD and BIM change each pixel by at most 8/255, PGD and BIM in 10 steps of 2/255; one pixel is "
            "searched by differential evolution, 10 generations of 10. Images that the model gets wrong anyway count "
            "as fooled. A defence whose model draws noise, or whose loss has no gradient left, can look more robust "
            "than it is.",
        )
    ]
    if any(f"{name}_success" in summarized for name in TRIGGERS):
        found.append(
            _table(
                summarized,
                backdoor,
                "Backdoor robustness: 1 % of the training images carry a trigger and the label of class 0. Success: "
                "share of test images of other classes that the trigger turns into class 0 (lower is more robust). "
                "Means over seeds with 95 % Student intervals.",
                "Success, not poisoned: the same trigger on the model of the study, which never saw it.",
            )
        )
    return found


def draw(summarized: pd.DataFrame, title: str) -> Figure:
    """Draw the settings side by side: accuracy under attack, targeted success, and backdoors if any was tried."""
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


def _measures() -> list[str]:
    adversarial = [f"{name}_{measure}" for name in ATTACKS for measure in ("accuracy", "targeted")]
    kinds = ("accuracy", "success", "unpoisoned")
    return ["test_accuracy", *adversarial, *(f"{name}_{kind}" for name in TRIGGERS for kind in kinds)]


def _table(summarized: pd.DataFrame, columns: dict[str, str], caption: str, note: str) -> cells.Table:
    shown = {measure: text for measure, text in columns.items() if measure in summarized}
    rows = [
        (row["label"], f"{row['seeds']}", *(_cell(row, measure) for measure in shown))
        for row in summarized.to_dict("records")
    ]
    return cells.Table(caption, ("Model", "Seeds", *shown.values()), rows, (note,))


def _cell(row: Mapping[Any, Any], measure: str) -> str:
    return words.percent_interval(*(row[c] for c in (measure, f"{measure}_low", f"{measure}_high")))
