"""``reconstructions.png``: reconstructions of each attack on each model, next to training images.

Under each reconstruction stands its score: the rank of the true class among itself and the decoys in a study with
linkage, else the MIA distance. A picture alone is no evidence: the prior of an attack draws convincing images of any
model.

Every image has the fixed scale 0 to 1 and no interpolation. Rescaling each image to its own range would make noise look
like content.
"""

from __future__ import annotations

from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dpmi.report import words
from dpmi.report.figures.style import DPI, FAINT, INK
from dpmi.report.numbers.tables import STRONGEST, claim_of, has_linkage, rows_of
from dpmi.study.results import Results

MOST_CLASSES = 12
LONGEST_LINE = 36
LONGEST_NAME = 11
LABEL_INCHES, CELL_INCHES, GAP_INCHES, HEADER_INCHES = 2.55, 0.78, 0.055, 0.72
SCORE_INCHES = 0.15
"""Height of the line of scores below the images of a row."""


class Row(NamedTuple):
    """One row of the figure: a name, details, images (K, C, H, W), and a text below each image."""

    name: str
    detail: str
    images: np.ndarray
    scores: tuple[str, ...] = ()


def draw(results: Results, table: pd.DataFrame, *, one_model: bool = False) -> Figure:
    """Draw the figure: one row per model and attack, for the first seed, and one column per class.

    Args:
        results: results of the study.
        table: their :func:`~dpmi.report.numbers.tables.summary`.
        one_model: whether all rows are of one model, so that they have the names of the attacks.
    """
    classes = _classes(results, table)
    shown = chosen_classes(len(classes))
    rows = [
        Row("training image", "one per class", results.examples[classes]),
        *(_attacked if one_model else _rows)(results, table),
    ]
    height, width = results.examples.shape[-2:]
    cell_height = CELL_INCHES * height / width + SCORE_INCHES
    inches = (
        LABEL_INCHES + len(shown) * CELL_INCHES + 0.15,
        HEADER_INCHES + len(rows) * cell_height + 0.15,
    )
    figure = Figure(figsize=inches, dpi=DPI)
    # One unit of the axes is one cell, so positions are row and column numbers.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left, top = LABEL_INCHES / CELL_INCHES, HEADER_INCHES / cell_height
    axes.set_xlim(-left, inches[0] / CELL_INCHES - left)
    axes.set_ylim(inches[1] / cell_height - top, -top)
    axes.text(0.15 - left, 0.22 / cell_height - top, _title(results, len(shown), len(classes)), **_TITLE)
    for column, index in enumerate(shown):
        name = results.class_names[classes[index]]
        axes.text(column + 0.5, -0.04 / cell_height, _short(name), **_CLASS)
    for place, row in enumerate(rows):
        _label(axes, row, 0.15 - left, place, cell_height)
        for column, index in enumerate(shown):
            _cell(axes, row.images[index], column, place, cell_height)
            if row.scores:
                below = place + 1 - 0.03 / cell_height
                axes.text(column + 0.5, below, row.scores[index], **_SCORE)
    # imshow sets square pixels; the cells already have the shape of the images.
    axes.set_aspect("auto")
    return figure


def chosen_classes(count: int) -> list[int]:
    """At most twelve class indices, evenly spread from the first to the last.

    >>> chosen_classes(3), chosen_classes(45)
    ([0, 1, 2], [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44])
    """
    return [int(index) for index in np.linspace(0, count - 1, min(count, MOST_CLASSES)).round()]


_TITLE: dict[str, Any] = {"fontsize": 11, "color": INK, "va": "center", "ha": "left", "parse_math": False}
_CLASS: dict[str, Any] = {
    "fontsize": 7.5,
    "color": FAINT,
    "va": "bottom",
    "ha": "center",
    "parse_math": False,
}
_SCORE: dict[str, Any] = {**_CLASS, "fontsize": 6.8, "color": INK}
_NAME: dict[str, Any] = {"fontsize": 9, "color": INK, "va": "bottom", "ha": "left", "parse_math": False}
_DETAIL: dict[str, Any] = {"fontsize": 7.3, "color": FAINT, "va": "top", "ha": "left", "parse_math": False}


def _classes(results: Results, table: pd.DataFrame) -> list[int]:
    """The classes of the models with the first seed; the models of another seed can have other classes."""
    first = table["trials"].iloc[0][0]
    return [int(k) for k in results.per_class.loc[results.per_class["trial"] == first, "class_index"]]


def _scores(results: Results, trial: Any) -> tuple[str, ...]:
    """A text for every class of a trial."""
    mine = results.per_class[results.per_class["trial"] == trial.trial]
    if "linkage_auc" not in mine:
        return tuple(map(words.number, mine["distance"]))
    decoys = round(1 / trial.linkage_chance) - 1
    # Decoys that are nearer than the true class, of which equally near ones count half.
    ranks = 1 + (1 - mine["linkage_auc"]) * decoys
    return tuple(f"rank {rank:g} of {decoys + 1}" for rank in ranks.round(1))


def _attacked(results: Results, table: pd.DataFrame) -> list[Row]:
    """One row per attack on one model, with its score, the level of chance and the bound."""
    rows = []
    for first in rows_of(
        results.trials.set_index("trial", drop=False).loc[[row.trials[0] for row in rows_of(table)]]
    ):
        detail = f"distance {words.number(first.distance)}, blank image {words.number(first.distance_blank)}"
        if has_linkage(results):
            detail = (
                f"linkage {words.percent(first.linkage_top1)}, chance {words.percent(first.linkage_chance)}"
            )
            if not results.given:
                detail += f"\nat most {words.bound(first.linkage_bound_top1)}"
        rows.append(
            Row(
                fill(first.attack, LONGEST_LINE), detail, results.recons[first.trial], _scores(results, first)
            )
        )
    return rows


def _rows(results: Results, table: pd.DataFrame) -> list[Row]:
    rows = []
    attacks = results.trials["attack"].nunique()
    first_seeds = results.trials.set_index("trial", drop=False)
    for setting in rows_of(table):
        (first,) = rows_of(first_seeds.loc[[setting.trials[0]]])
        claim = claim_of(first)
        name = "undefended" if first.defense == "none" and not results.given else first.label
        privacy = "guarantee unknown" if results.given else "no guarantee"
        if claim.is_guarantee:
            privacy = f"epsilon {words.epsilon(first.epsilon)} for one {claim.unit}"
        outcome = f"accuracy {words.percent(first.test_accuracy)}, "
        if has_linkage(results):
            outcome += f"linkage {words.percent(first.linkage_top1)}"
        else:
            outcome += f"distance {words.number(first.distance)}"
        if first.attack == STRONGEST:
            by = f"{STRONGEST}, {first.strongest}\n"
        else:
            by = f"{first.attack}: " if attacks > 1 else ""
        rows.append(
            Row(
                fill(name, LONGEST_LINE),
                f"{by}{privacy}\n{outcome}",
                results.recons[first.trial],
                _scores(results, first),
            )
        )
    return rows


def _title(results: Results, shown: int, classes: int) -> str:
    seed = results.trials["seed"].min()
    which = f"{shown} of {classes} classes, evenly chosen" if shown < classes else f"all {classes} classes"
    return f"Reconstructions on {results.trials['data'].iloc[0]}: {which}, seed {seed}"


def _short(name: str) -> str:
    """Shorten a name in the middle, because names of classes often differ at the end."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[-half:]}"


def _label(axes: Any, row: Row, x: float, place: int, cell_height: float) -> None:
    # The name is above and the details are below a line slightly above the middle of the cell.
    y = place + 0.5 - 0.09 / cell_height
    axes.text(x, y, row.name, **_NAME)
    axes.text(x, y + 0.03 / cell_height, row.detail, **_DETAIL)


def _cell(axes: Any, image: np.ndarray, column: int, place: int, cell_height: float) -> None:
    pixels = image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1)
    side, edge = GAP_INCHES / 2 / CELL_INCHES, GAP_INCHES / 2 / cell_height
    left, right, top = column + side, column + 1 - side, place + edge
    bottom = place + 1 - edge - SCORE_INCHES / cell_height
    axes.imshow(
        pixels,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(left, right, bottom, top),
    )
    # The frame makes a white image visible on the page.
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="#bdbdbd", linewidth=0.5)
    )
