"""What survives of a defence's gain once the attacker knows the defence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dpmi.metrics import paired_difference
from dpmi.report.numbers import survival

from .test_strongest import ACCURACIES, MASKED, NONE, TRUE, judged


def mean(label: str, attack: str, adaptation: str = "") -> np.ndarray:
    """(seeds, classes)."""
    return np.array(ACCURACIES[(label, attack, adaptation)])


def test_survival_by_hand() -> None:
    table = survival.survival(judged()).set_index("label")
    assert table["unaware"].tolist() == ["a", "b"]
    assert table["strongest"].tolist() == ["a, mean forward", "b"]
    gains = {
        MASKED: (mean(MASKED, "a"), mean(MASKED, "a", "mean forward")),
        TRUE: (mean(TRUE, "b"), mean(TRUE, "b")),
    }
    for label, found in gains.items():
        for name, ours in zip(("gain", "gain_adaptive"), found, strict=True):
            row = table.loc[label]
            expected = paired_difference(mean(NONE, "b"), ours)
            assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(list(expected))
    masked, true = table.loc[MASKED], table.loc[TRUE]
    assert masked["survives"] == pytest.approx(masked["gain_adaptive"] / masked["gain"])
    assert masked["survives"] < 0.5
    assert true["survives"] == 1


def test_a_gain_that_is_not_clear_leaves_nothing_to_survive() -> None:
    results = judged()
    of_true = results.trials.loc[results.trials["label"] == TRUE, "trial"]
    same = results.per_class["trial"].isin(of_true)
    per_class = results.per_class.assign(
        attack_accuracy=results.per_class["attack_accuracy"].where(~same, 0.68)
    )
    table = survival.survival(dataclasses.replace(results, per_class=per_class)).set_index("label")
    assert table.loc[TRUE, "gain_low"] < 0
    assert np.isnan(table.loc[TRUE, "survives"])


def test_what_an_adaptation_adds() -> None:
    table = survival.adapted(judged()).set_index(["label", "attack", "adaptation"])
    assert len(table) == 2
    row = table.loc[(MASKED, "a", "mean forward")]
    known, plain = mean(MASKED, "a", "mean forward"), mean(MASKED, "a")
    assert row["added"] == pytest.approx((known - plain).mean())
    assert row["known"] == pytest.approx(known.mean())
    assert row["seeds"] == 2
