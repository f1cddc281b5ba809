"""The tables of adaptive attacks: the gain of each defence that survives them."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dpmi.report import words
from dpmi.report.numbers.tables import rows_of
from dpmi.report.page.cells import Table, measured


def survival_table(table: pd.DataFrame, measure: str) -> Table:
    """The gain of each defence against plain attacks, and against plain and adaptive attacks.

    Args:
        table: table of :func:`dpmi.report.numbers.survival.survival`.
        measure: that of the gain; see :func:`dpmi.report.numbers.tables.judging`.
    """
    name, share = words.MEASURES[measure], measure != "distance"
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
        "Gain of each defence: by how much it "
        + f"{'lowers' if share else 'raises'} the {name}"
        + " of the strongest attack. First for plain attacks, which use no knowledge of the defence; then for plain "
        "and adaptive attacks together.",
        (
            "Defence",
            "Seeds",
            "Strongest plain attack",
            "Gain, plain attacks",
            "Strongest attack",
            "Gain, adaptive attacks included",
            "Share that survives",
        ),
        rows,
        (
            f"The strongest attack has the {'highest' if share else 'smallest'} {name} on "
            "average over classes and seeds; on the undefended model it may be another attack. Intervals: 95 % "
            "intervals of a paired t-test over seeds. No share is given if the gain against plain attacks is not "
            "clearly above 0. The undefended model is attacked with the adaptations that apply to any model, a "
            "defended model also with those of its defence. The second gain is therefore an underestimate, if "
            "anything.",
        ),
    )


def adapted_table(table: pd.DataFrame, measure: str) -> Table:
    """The effect of each adaptation.

    Args:
        table: table of :func:`dpmi.report.numbers.survival.adapted`.
        measure: that of the effect; see :func:`dpmi.report.numbers.tables.judging`.
    """
    name, share = words.MEASURES[measure], measure != "distance"
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
    return Table(
        f"Adaptive attacks compared with the same plain attacks: {name}, with the 95 % interval of a paired t-test "
        "over seeds.",
        ("Model", "Attack", "Adaptation", "Seeds", "Plain", "Adaptive", "Difference"),
        rows,
    )


def _survives(row: Any) -> str:
    if math.isnan(row.gain_low):
        return "unknown: one seed"
    if math.isnan(row.survives):
        return "no clear gain"
    return words.percent(row.survives).replace("-", "−")
