"""The tables of the games with an exact chance level: linkage, identification against decoys, and the unit game."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import STRONGEST, other_scorer, rows_of
from dpmi.report.page.cells import Table, guarantee, measured
from dpmi.study.study import GIVEN

_OF_A_GIVEN_MODEL = (
    "An attacker without the model reaches exactly the level of chance if chance decided which classes trained it and "
    "which are decoys. If they differ in another way, such as the camera, the linkage shows that too.",
)


def linked(summary: pd.DataFrame) -> Table:
    """Linkage of every model under every attack, with chance and bound."""
    other = other_scorer(summary)
    if not other:
        return _among_classes(summary)
    rows = [
        (
            row.label,
            row.attack,
            guarantee(row),
            measured(row, "linkage_top1", share=True),
            words.percent(row.linkage_chance),
            _of_one_attacker(row, row.linkage_bound_top1),
            measured(row, "linkage_auc", share=True),
            _of_one_attacker(row, row.linkage_bound_auc),
            measured(row, other, share=True),
            measured(row, "test_accuracy", share=True),
            words.bound(row.accuracy_bound),
        )
        for row in rows_of(summary)
    ]
    scorer = "MIA distance" if other.endswith("mia") else "whitened images"
    return Table(
        "Linkage: whether a reconstruction is nearer to its own class than to decoys, classes that trained nothing. "
        "Means over models and classes, with 95 % intervals over both.",
        (
            "Model",
            "Attack",
            "epsilon",
            "Top-1",
            "Chance",
            "Top-1, at most",
            "AUC (chance 50 %)",
            "AUC, at most",
            f"Top-1 by {scorer}",
            "Test accuracy",
            "Test accuracy, at most",
        ),
        rows,
        _OF_A_GIVEN_MODEL
        if GIVEN in set(summary["label"])
        else (
            "Chance decides which classes of a model are private and which are decoys, so an attacker without the "
            "model reaches exactly the level of chance. The upper bounds follow from the epsilon of the model for one "
            "class. They hold for one attack and one scorer that are fixed in advance, so there is none for the "
            "strongest of several attacks, and an epsilon for a record or a subclass gives none.",
            "Class-level differential privacy bounds the accuracy of the model too: to recognise a class is to tell "
            "that it was there. A small epsilon for a class and a useful accuracy on that class exclude each other, "
            "whatever the training; guarantees for records, subclasses and users do not limit accuracy so.",
        ),
    )


def _among_classes(summary: pd.DataFrame) -> Table:
    """Linkage of a given model among its own classes, without decoys."""
    rows = [
        (
            row.label,
            row.attack,
            measured(row, "linkage_top1", share=True),
            words.percent(row.linkage_chance),
            measured(row, "linkage_auc", share=True),
            measured(row, "test_accuracy", share=True),
        )
        for row in rows_of(summary)
    ]
    return Table(
        "Linkage among the classes of the model: whether a reconstruction is nearer to its own class than to the "
        "others. Means over classes, with 95 % intervals over them.",
        ("Model", "Attack", "Top-1", "Chance", "AUC (chance 50 %)", "Accuracy"),
        rows,
        (
            "An attacker without the model reaches the level of chance, because labels say nothing about images. Part "
            "of the linkage can be elimination: what the model says of the other classes tells which one is left. "
            "Classes that trained nothing, as decoys, exclude that.",
        ),
    )


def _of_one_attacker(row: Any, bound: float) -> str:
    return words.MISSING if row.attack == STRONGEST else words.bound(bound)


def identified(summary: pd.DataFrame) -> Table:
    """As what the evaluator identifies the reconstructions, in a study with linkage."""
    rows = [
        (
            row.label,
            row.attack,
            measured(row, "identified_own", share=True),
            measured(row, "identified_decoy", share=True),
            measured(row, "identified_gain", share=True).replace("-", "−"),
            _of_one_attacker(row, row.identified_bound),
        )
        for row in rows_of(summary)
    ]
    return Table(
        "Identification against decoys: the share of reconstructions that the evaluator assigns to their own class, "
        "and to each decoy. Without the model both are equal on average.",
        ("Model", "Attack", "Own class", "Per decoy", "Gain", "Gain, at most"),
        rows,
        (
            "Read the gain, never the own class alone: an attack whose prior looks like the private classes is often "
            "right without the model. The upper bound is the total variation between the releases of two neighbouring "
            "data sets, one class replaced.",
        ),
    )


def unit_game(summary: pd.DataFrame) -> Table:
    """The unit game of every model."""
    rows = [
        (
            row.label,
            guarantee(row),
            measured(row, "unit_auc", share=True),
            words.bound(row.unit_bound_auc),
            measured(row, "test_accuracy", share=True),
        )
        for row in rows_of(summary.drop_duplicates("label"))
    ]
    return Table(
        "Unit game: a random half of the units trains a model, and the attacker tells which. AUC over pairs of a unit "
        "that was in and one that was out, 50 % without the model; mean over models, with 95 % intervals.",
        ("Model", "epsilon", "AUC", "AUC, at most", "Test accuracy"),
        rows,
        (
            "The statistic of a unit is the mean margin of its records under the model minus that under reference "
            "models. The upper bound follows from the epsilon of the model if it is for the same unit.",
        ),
    )
