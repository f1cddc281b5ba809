"""Robustness of the models of a study: means over seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpmi.metrics import student_interval
from dpmi.metrics.backdoor import TRIGGERS
from dpmi.metrics.robustness import ATTACKS

NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "bim": "BIM",
    "one_pixel": "one pixel",
    "badnets": "BadNets",
    "blended": "Blended",
}
SHARE = (0.0, 1.0)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per setting of a defence: the mean of every measure over seeds, with a 95 % Student interval.

    Args:
        table: table of :func:`dpmi.study.side_effects.gather_side_effects`.
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


def _measures() -> list[str]:
    adversarial = [f"{name}_{measure}" for name in ATTACKS for measure in ("accuracy", "targeted")]
    kinds = ("accuracy", "success", "unpoisoned")
    return ["test_accuracy", *adversarial, *(f"{name}_{kind}" for name in TRIGGERS for kind in kinds)]
