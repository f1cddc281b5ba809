"""Layers on which classification and inversion depend: means over seeds."""

from __future__ import annotations

import pandas as pd

from dpmi.metrics import student_interval

TASKS = ("classification", "inversion")


def mean_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, with 95 % Student intervals; the ends are NaN for a single seed.

    Args:
        table: result of :func:`dpmi.study.layer_information.layer_information`.

    Returns:
        One row per label, attack and layer, in the order of ``table``: ``kind``, ``parameters``, ``seeds``, and for
        each task ``<task>``, ``<task>_low``, ``<task>_high``, the layer's share of the information of all layers.
    """
    rows = []
    for (label, attack, layer), found in table.groupby(["label", "attack", "layer"], sort=False):
        row: dict[str, object] = {"label": label, "attack": attack, "layer": layer}
        row |= {column: found[column].iloc[0] for column in ("kind", "parameters")}
        row["seeds"] = len(found)
        for task in TASKS:
            interval = student_interval(found[f"{task}_share"], possible=(0.0, 1.0))
            row |= dict(zip((task, f"{task}_low", f"{task}_high"), interval, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)
