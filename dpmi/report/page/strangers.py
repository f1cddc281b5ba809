"""The table of the strangers: face recognisers of others that judge the reconstructions."""

from __future__ import annotations

import pandas as pd

from dpmi.metrics.strangers import STRANGERS
from dpmi.report import words
from dpmi.report.numbers.tables import rows_of
from dpmi.report.page.cells import Table, measured


def judged(summary: pd.DataFrame) -> Table:
    """Attack accuracy, gain among decoys and delta_face by each stranger, with chance and disagreement.

    Args:
        summary: table of :func:`dpmi.report.numbers.tables.summary` for a study with strangers.
    """
    names = [name for name in STRANGERS if f"attack_accuracy_{name}" in summary]
    gains = [name for name in names if f"identified_gain_{name}" in summary]
    rows = [
        (
            row.label,
            row.attack,
            *(measured(row, f"attack_accuracy_{name}", share=True) for name in names),
            words.percent(row.strangers_chance),
            *(measured(row, f"attack_accuracy_top5_{name}", share=True) for name in names),
            *(measured(row, f"identified_gain_{name}", share=True).replace("-", "−") for name in gains),
            *(measured(row, f"delta_face_{name}") for name in names),
            measured(row, "strangers_disagreement", share=True),
            measured(row, "type_one_errors", share=True),
        )
        for row in rows_of(summary)
    ]
    accuracies = words.listed(
        [f"{name} {words.percent(summary[f'evaluator_accuracy_{name}'].mean())}" for name in names]
    )
    return Table(
        "Judged by strangers: face recognisers that others trained, on other people. A reconstruction is assigned to "
        "the class of the nearest private image by the cosine of their features. Means over seeds and classes, with "
        f"95 % intervals. Share of held-out private images that they assign to their class: {accuracies}.",
        (
            "Model",
            "Attack",
            *(f"Attack accuracy, {name}" for name in names),
            "Chance",
            *(f"Top-5, {name}" for name in names),
            *(f"Gain over a decoy, {name}" for name in gains),
            *(f"delta_face, {name}" for name in names),
            "Disagreement",
            "Type-I errors",
        ),
        rows,
        (
            "Disagreement: share of reconstructions that one of two strangers assigns to their class and the other "
            "does not. Type-I errors: share that the study's own evaluator assigns to their class and no stranger "
            "does. Such a picture fools networks that learnt the same task, or is too coarse for the strangers. "
            "delta_face: squared distance to the nearest private image of the class, in features of length 1, from 0 "
            "to 4; published values are by a FaceNet.",
        ),
    )
