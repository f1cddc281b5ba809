"""Shares of the information of layers: means and intervals over seeds."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dpmi.metrics import student_interval
from dpmi.report.numbers.layers import mean_shares

SHARES = {("0", 0): (0.2, 0.9), ("0", 1): (0.4, 0.7), ("2", 0): (0.8, 0.1), ("2", 1): (0.6, 0.3)}


def table(seeds: int, attacks: tuple[str, ...] = ("miface",)) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": "none",
            "attack": attack,
            "seed": seed,
            "layer": layer,
            "kind": "Linear",
            "parameters": 10,
            "classification_share": classification,
            "inversion_share": inversion,
        }
        for attack in attacks
        for (layer, seed), (classification, inversion) in SHARES.items()
        if seed < seeds
    )


def test_means_and_intervals_over_seeds() -> None:
    first, second = mean_shares(table(seeds=2)).to_dict("records")
    assert (first["layer"], first["parameters"], first["seeds"]) == ("0", 10, 2)
    assert first["classification"] == pytest.approx(0.3)
    assert second["inversion"] == pytest.approx(0.2)
    low, high = student_interval([0.2, 0.4], possible=(0.0, 1.0))[1:]
    assert (first["classification_low"], first["classification_high"]) == (low, high)
    (only, _) = mean_shares(table(seeds=1)).to_dict("records")
    assert only["classification"] == 0.2
    assert math.isnan(only["classification_low"])
