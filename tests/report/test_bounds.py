from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dpmi.report import words
from dpmi.report.numbers import tables
from dpmi.report.numbers.bounds import bounds
from dpmi.report.page import cells

from .conftest import SETTINGS, make_results

GLUE = words.GLUE


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


def table(**how: object) -> cells.Table:
    results = make_results(**how)
    return cells.any_attack(tables.summary(results), bounds(results.trials))


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


def test_every_model_and_attack_has_its_measured_success_beside_the_bound():
    shown = table(attacks=("mi-face", "gmi"))
    assert shown.header[2:5] == ("Measured success", "Bound at kappa = 0.01", "Bound at kappa = 0.1")
    assert len(shown.rows) == 2 * len(SETTINGS)
    by_name = {row[:2]: row[3:] for row in shown.rows}
    undefended = by_name["none", "mi-face"]
    assert undefended == (f"100{GLUE}%: no bound", f"100{GLUE}%: no bound", "–")
    # 0.3310 and 0.7166, rounded up.
    private = by_name["subclass-dp, noise 1.6", "mi-face"]
    assert private == (f"33.2{GLUE}%", f"71.7{GLUE}%", "one subclass, not a whole class")
    assert by_name["subclass-dp, noise 1.6", "gmi"] == private
    assert by_name["record-dp, noise 1", "mi-face"][-1] == "one record, not a whole class"


def test_a_bound_for_one_class_is_called_that():
    setting = ("class-dp", "class-dp, noise 1.6", 1.6, "class", 1e-2, (15.9, 7.4, 28.3, 18.5), 1.7, 0.9)
    assert table(settings=[setting]).rows[0][-1] == "one class"


def test_the_largest_bound_of_the_seeds_is_shown():
    results = make_results(settings=[SETTINGS[4]])
    found = bounds(results.trials)
    second = results.trials["trial"].iloc[1]
    shown = cells.any_attack(tables.summary(results), found | {second: (0.4, 0.8)})
    assert shown.rows[0][3:5] == (f"40.0{GLUE}%", f"80.0{GLUE}%")


def test_the_notes_say_what_the_bound_is_and_is_not():
    notes = " ".join(table(seeds=[0]).notes)
    for part in (
        "probability of success if that one unit was not used",
        "any attack and any criterion",
        "says nothing about the class",
        "the same run with secret randomness",
        "conditional on the partition",
    ):
        assert part in notes


@pytest.mark.parametrize("value", [0.0, 0.0291, 0.33041, 0.5, 0.7166, 0.99890])
def test_a_printed_bound_is_never_below_the_true_one(value: float):
    printed = float(words.bound(value).removesuffix(f"{GLUE}%")) / 100
    assert value - 1e-9 <= printed < value + 1e-3
