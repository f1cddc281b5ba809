"""The tables of adaptive attacks: what is left of a defence where the attacker knows it."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import rows_of
from dpmi.report.page.cells import Table, measured


def survival_table(table: pd.DataFrame, *, share: bool) -> Table:
    """How much of a defence's gain is left where the attacker knows the defence.

    Args:
        table: of :func:`dpmi.report.numbers.survival.survival`.
        share: whether it is in attack accuracy; else in distance.
    """
    rows = [
        (
            f"{row.label} against {row.reference}",
            f"{row.seeds}",
            row.unaware,
            measured(row, "gain", share=share).replace("-", "−"),
            row.strongest,
            measured(row, "gain_adaptive", share=share).replace("-", "−"),
            _survives(row),
        )
        for row in rows_of(table)
    ]
    return Table(
        "What a defence gains: how much "
        + ("attack accuracy the strongest attack loses" if share else "farther the strongest attack ends")
        + " to it. First against the attacks that do not know it, then against these and the adapted ones.",
        (
            "Defence",
            "Seeds",
            "Strongest unaware of it",
            "Gain",
            "Strongest of all",
            "Gain, adapted ones included",
            "Survives",
        ),
        rows,
        (
            "Strongest: the attack that found most, in the mean over classes and seeds; on the undefended model it may "
            "be another. 95 % intervals of a paired t-test over seeds. A gain that is not clearly above 0 leaves "
            "nothing to survive. The undefended model is attacked with the adaptations that serve for any model, a "
            "defended one with those of its defence besides, so that the last gain is if anything too small.",
        ),
    )


def adapted_table(table: pd.DataFrame, *, share: bool) -> Table:
    """What knowing the defence adds to each attack.

    Args:
        table: of :func:`dpmi.report.numbers.survival.adapted`.
        share: whether it is in attack accuracy; else in distance.
    """
    number = words.percent if share else words.number
    rows = [
        (
            row.label,
            row.attack,
            row.adaptation,
            f"{row.seeds}",
            number(row.plain),
            number(row.known),
            measured(row, "added", share=share).replace("-", "−"),
        )
        for row in rows_of(table)
    ]
    measure = "attack accuracy" if share else "MIA distance"
    return Table(
        f"Attacks that know the defence, against the same attacks unaware of it: {measure}, with the 95 % interval of "
        "a paired t-test over seeds.",
        ("Model", "Attack", "Adaptation", "Seeds", "Unaware", "Adapted", "Difference"),
        rows,
    )


def _survives(row: Any) -> str:
    if math.isnan(row.gain_low):
        return "unknown: one seed"
    if math.isnan(row.survives):
        return "no clear gain"
    return words.percent(row.survives).replace("-", "−")
