"""``curve.png``: epsilon against MIA distance, advantage and accuracy, one panel per unit of privacy.

Epsilons of different claims (unit, adjacency, delta, accountant) cannot be compared and never share an axis. Distance,
advantage and accuracy can be compared and share the vertical axis of a row. Defences without a guarantee have a panel
of their own, with names in place of epsilons.

A study with linkage begins with the row of top-1 linkage and that of its AUC; one with the unit game, with its AUC. A
study with an evaluator has a row for attack accuracy, or for the gain of identification if it has linkage. Chance
levels and bounds are lines; see :mod:`dpmi.report.figures.bound_lines`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from dpmi.report import words
from dpmi.report.figures import bound_lines
from dpmi.report.figures.axes import EpsilonAxis, NameAxis
from dpmi.report.figures.style import DPI, FAINT, INK, MARKERS, PALETTE, frame
from dpmi.report.numbers.tables import (
    CLAIM,
    STRONGEST,
    claim_of,
    has_evaluator,
    has_linkage,
    has_units,
    rows_of,
)
from dpmi.report.words import Claim
from dpmi.study.results import Results


class Reference(NamedTuple):
    """A horizontal line in every panel of the distance row."""

    column: str
    label: str
    color: str
    dashes: Any


UNDEFENDED = Reference("distance", "undefended model", INK, (0, (5, 2)))
REFERENCES = (
    Reference("distance_blank", "blank image", FAINT, (0, (1, 1.5))),
    Reference("distance_public_mean", "mean public image", FAINT, (0, (4, 1.5, 1, 1.5))),
    Reference("distance_public_nearest", "nearest public image (oracle)", FAINT, (0, (8, 3))),
)
ROWS = {
    "linkage_top1": "linkage",
    "linkage_auc": "linkage",
    "unit_auc": "the unit game",
    "distance": "MIA distance",
    "advantage": "advantage",
    "attack_accuracy": "attack accuracy",
    "identified_gain": "identification",
    "test_accuracy": "accuracy",
}
"""Measure of a row -> its name in a sentence."""
CEILING = Reference("advantage_class_mean", "mean image of the class (ceiling)", FAINT, (0, (8, 3)))
"""The horizontal line in the panels of the advantage."""
SHARES = {"linkage_top1", "linkage_auc", "unit_auc", "attack_accuracy", "identified_gain", "test_accuracy"}
"""Measures that are written in percent."""
ROW_HEIGHT = 7.4 / 3


def draw(results: Results, table: pd.DataFrame) -> Figure:
    """Draw the figure: one block per attack, with one row per measure and one column per claim.

    Args:
        results: results of the study.
        table: their :func:`~dpmi.report.numbers.tables.summary`.
    """
    attacks = list(table["attack"].unique())
    claims = _claims(table)
    measures = measures_of(results)
    figure = Figure(
        figsize=(
            max(7.2, 1.2 + 4.1 * len(claims)),
            0.9 + ROW_HEIGHT * len(measures) * len(attacks),
        ),
        dpi=DPI,
        layout="constrained",
    )
    blocks = figure.subfigures(len(attacks), 1, squeeze=False)[:, 0]
    styles = {
        name: (PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(name for name in table["defense"].unique() if name != "none")
    }
    for attack, block in zip(attacks, blocks, strict=True):
        mine = table[table["attack"] == attack]
        trials = results.trials[results.trials["attack"] == attack]
        _block(
            block,
            mine,
            trials,
            claims=claims,
            measures=measures,
            styles=styles,
            classes=len(results.class_names),
        )
        block.suptitle(_title(attack, mine, trials), fontsize=11, color=INK)
    return figure


def measures_of(results: Results) -> list[str]:
    """Rows of a block, from top to bottom."""
    linked, judged = has_linkage(results), has_evaluator(results)
    return [
        *(["linkage_top1", "linkage_auc"] if linked else []),
        *(["unit_auc"] if has_units(results) else []),
        *([] if linked else ["distance"]),
        "advantage",
        *(["identified_gain" if linked else "attack_accuracy"] if judged else []),
        "test_accuracy",
    ]


def described(results: Results) -> str:
    """The rows of a block in words."""
    rows = dict.fromkeys(ROWS[measure] for measure in measures_of(results))
    return words.listed(list(rows))


def _claims(table: pd.DataFrame) -> list[Claim]:
    """Claims of the panels: every claim in reading order, then NO_CLAIM for defences without a guarantee.

    NO_CLAIM is included if there are such defences, or if there is no other panel.
    """
    claims = list(dict.fromkeys(claim_of(row) for row in rows_of(table) if row.unit != "none"))
    if not claims or ((table["unit"] == "none") & (table["defense"] != "none")).any():
        claims.append(NO_CLAIM)
    return claims


NO_CLAIM = Claim("none", "", math.nan, "")


def _title(attack: str, table: pd.DataFrame, trials: pd.DataFrame) -> str:
    seeds = sorted(table["seeds"].unique())
    if seeds == [1]:
        spread = "one seed, so no intervals over seeds"
    else:
        spread = (
            f"{'–'.join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))} seeds, 95 % intervals"
        )
    data = f"{trials['data'].iloc[0]}, {trials['model'].iloc[0]}"
    return f"Attack {attack} on {data} ({spread})"


def _block(
    block: SubFigure,
    table: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    claims: list[Claim],
    measures: list[str],
    styles: dict[str, tuple[str, str]],
    classes: int,
) -> None:
    # Chance and bound hold for a single attack, not for the best of several.
    bounded = STRONGEST not in set(table["attack"])
    grid: np.ndarray = block.subplots(len(measures), len(claims), sharex="col", sharey="row", squeeze=False)
    for column, claim in enumerate(claims):
        panel = table[_under(table, claim) & (table["defense"] != "none")]
        if not claim.is_guarantee and panel.empty:
            panel = table
        axis = EpsilonAxis(panel["epsilon"]) if claim.is_guarantee else NameAxis(panel["label"])
        for measure, axes in zip(measures, grid[:, column], strict=True):
            frame(axes)
            _reference_lines(axes, table, measure)
            _lines(axes, axis, panel, trials=trials, measure=measure, styles=styles)
            # The unit game and accuracy do not depend on the attack.
            if bounded or measure in {"unit_auc", "test_accuracy"}:
                bound_lines.draw_levels(axes, axis if isinstance(axis, EpsilonAxis) else None, panel, measure)
            if measure == "attack_accuracy" and bounded:
                bound_lines.draw_chance(axes, classes)
                if isinstance(axis, EpsilonAxis):
                    bound_lines.draw(axes, axis, panel, trials, unit=claim.unit, classes=classes)
            axis.dress(axes)
        if claim.is_guarantee:
            grid[-1, column].set_xlabel(f"epsilon for {claim}", fontsize=9)
        title = f"Unit of privacy: {claim.unit}" if claim.is_guarantee else "No guarantee"
        grid[0, column].set_title(title, fontsize=10, color=INK)
    kind = words.DISTANCES[trials["distance_kind"].iloc[0]]
    # The text is rotated, so these arrows point up and down.
    names = {
        "linkage_top1": "Linkage, top-1   ← safer\nright class among its decoys",
        "linkage_auc": "Linkage, AUC   ← safer",
        "unit_auc": "Unit game, AUC   ← safer\nwas this unit in?",
        "identified_gain": "Identified by the evaluator\nown − per decoy   ← safer",
        "distance": f"MIA distance   safer →\n{kind}",
        "advantage": "Advantage   ← safer\n0: no gain from the model",
        "attack_accuracy": "Attack accuracy   ← safer",
        "test_accuracy": "Test accuracy",
    }
    for measure, axes in zip(measures, grid[:, 0], strict=True):
        axes.set_ylabel(names[measure], fontsize=9)
        if measure in SHARES:
            axes.yaxis.set_major_formatter(lambda share, _: f"{round(100 * share, 6):g} %")
        if measure in SHARES - {"test_accuracy", "identified_gain"}:
            axes.set_ylim(-0.04, 1.04)
    block.align_ylabels(list(grid[:, 0]))
    handles = _legend_handles(table, styles, distances="distance" in measures)
    columns = max(3, 2 * len(claims))
    if any(bound in table for _, bound in bound_lines.LEVELS.values()):
        handles += bound_lines.level_handles()
    if "attack_accuracy" in measures and bounded:
        # The labels of the bounds are long.
        columns = 1 + len(claims)
        units = list(dict.fromkeys(claim.unit for claim in claims if claim.is_guarantee))
        handles += bound_lines.legend_handles(units, classes)
    block.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), columns),
        fontsize=8.5,
        frameon=False,
    )


def _under(table: pd.DataFrame, claim: Claim) -> pd.Series[bool]:
    if not claim.is_guarantee:
        return table["unit"] == "none"
    return (table[CLAIM] == list(claim)).all(axis=1)


def _reference_lines(axes: Axes, table: pd.DataFrame, measure: str) -> None:
    undefended = table[table["defense"] == "none"]
    for row in rows_of(undefended):
        axes.axhline(
            getattr(row, measure),
            color=UNDEFENDED.color,
            linestyle=UNDEFENDED.dashes,
            linewidth=1.1,
            zorder=1.5,
        )
        low, high = getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high")
        if not math.isnan(low):
            axes.axhspan(low, high, color=INK, alpha=0.08, linewidth=0, zorder=1)
    if measure == "distance":
        for reference in REFERENCES:
            level = table[reference.column].mean()
            if not math.isnan(level):
                axes.axhline(
                    level, color=reference.color, linestyle=reference.dashes, linewidth=1.1, zorder=1.5
                )
    if measure == "advantage":
        axes.axhline(0.0, color=FAINT, linewidth=0.9, zorder=1.5)
        if CEILING.column in table:
            level = table[CEILING.column].mean()
            axes.axhline(level, color=CEILING.color, linestyle=CEILING.dashes, linewidth=1.1, zorder=1.5)


def _lines(
    axes: Axes,
    axis: EpsilonAxis | NameAxis,
    panel: pd.DataFrame,
    *,
    trials: pd.DataFrame,
    measure: str,
    styles: dict[str, tuple[str, str]],
) -> None:
    for place, (defense, rows) in enumerate(panel.groupby("defense", sort=False)):
        color, marker = styles.get(str(defense), (INK, "o"))
        shift = place - (panel["defense"].nunique() - 1) / 2
        points = []
        for row in rows_of(rows):
            x = axis.place(row, shift)
            mean, low, high = (getattr(row, name) for name in (measure, f"{measure}_low", f"{measure}_high"))
            points.append((x, mean, math.isinf(row.epsilon)))
            seeds = trials.loc[trials["trial"].isin(row.trials), measure]
            if len(seeds) > 1:
                beside = [axis.beside(x)] * len(seeds)
                axes.plot(beside, seeds, "o", color=color, alpha=0.4, markersize=3.2, zorder=2.5, mew=0)
            if not math.isnan(low):
                axes.errorbar(
                    x, mean, [[mean - low], [high - mean]], color=color, capsize=2.5, linewidth=1.3, zorder=3
                )
            axes.plot(x, mean, marker, color=color, markersize=6, zorder=3.5, mec="white", mew=0.7)
        # A line to infinity would show a slope that has no meaning on the broken axis.
        finite = [(x, y) for x, y, infinite in points if not infinite]
        if finite:
            axes.plot(*zip(*finite, strict=True), color=color, linewidth=1.5, zorder=3)


def _legend_handles(
    table: pd.DataFrame, styles: dict[str, tuple[str, str]], *, distances: bool
) -> list[Line2D]:
    present = table["defense"].unique()
    handles = [
        Line2D([], [], color=color, marker=marker, mec="white", mew=0.7, markersize=6, label=name)
        for name, (color, marker) in styles.items()
        if name in present
    ]
    lines = [UNDEFENDED] if "none" in present else []
    if CEILING.column in table:
        lines.append(CEILING)
    if distances:
        lines += [reference for reference in REFERENCES if table[reference.column].notna().any()]
    handles += [
        Line2D([], [], color=line.color, linestyle=line.dashes, linewidth=1.2, label=line.label)
        for line in lines
    ]
    if (table["seeds"] > 1).any():
        handles.append(
            Line2D(
                [],
                [],
                color=FAINT,
                marker="o",
                mew=0,
                markersize=3.5,
                alpha=0.6,
                linestyle="",
                label="one seed",
            )
        )
    return handles
