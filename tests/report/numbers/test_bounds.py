from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dpmi.report.numbers.bounds import bounds


def trial(**changes: object) -> pd.DataFrame:
    row = {
        "trial": "t",
        "unit": "class",
        "epsilon": 15.924,
        "sampling_rate": 0.2,
        "noise_multiplier": 1.6,
        "steps": 200.0,
    }
    return pd.DataFrame([row | changes])


def test_the_bound_is_that_of_the_trials_mechanism():
    # Confirmed by Monte Carlo on the likelihood ratio to within 0.004.
    assert bounds(trial())["t"] == pytest.approx((0.331, 0.717), abs=5e-4)
    assert bounds(trial(noise_multiplier=3.0, steps=137))["t"] == pytest.approx((0.0645, 0.315), abs=6e-4)


def test_the_bound_of_the_mean_chance_bounds_the_mean_over_classes():
    """Why attack accuracy, a mean over classes, is held against B(1/K)."""
    rng = np.random.default_rng(0)
    for chances in rng.dirichlet(np.ones(5), size=20):
        assert np.mean(bounds(trial(), chances)["t"]) <= bounds(trial(), [1 / 5])["t"][0] + 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "none", "sampling_rate": math.nan, "noise_multiplier": math.nan, "epsilon": math.inf},
        {"noise_multiplier": 0.0, "epsilon": math.inf},
        {"noise_multiplier": 0.02, "steps": 600.0, "epsilon": 2.8e5},
    ],
    ids=["no defence", "no noise", "next to no noise"],
)
def test_where_nothing_is_promised_the_bound_is_one(changes: dict[str, object]):
    assert bounds(trial(**changes))["t"] == (1.0, 1.0)
