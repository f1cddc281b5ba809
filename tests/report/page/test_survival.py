"""The tables of adaptive attacks: what survives of a gain, and where there is nothing to survive."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from dpmi.report.numbers import survival
from dpmi.report.page.survival import adapted_table, survival_table
from dpmi.report.words import GLUE

from ..numbers.test_strongest import MASKED, NONE, TRUE, judged


def test_each_defence_has_its_gain_before_and_after() -> None:
    masked, true = survival_table(survival.survival(judged()), "attack_accuracy").rows
    assert masked[:3] == (f"{MASKED} against {NONE}", "2", "a")
    assert masked[4] == "a, mean forward"
    assert masked[3].startswith(f"57.5{GLUE}%")
    assert masked[5].startswith(f"20.0{GLUE}%")
    assert masked[6] == f"34.8{GLUE}%"
    assert true[:3] == (f"{TRUE} against {NONE}", "2", "b")
    assert true[6] == f"100.0{GLUE}%"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gain_low": math.nan, "survives": math.nan}, "unknown: one seed"),
        ({"gain_low": -0.1, "survives": math.nan}, "no clear gain"),
        ({"survives": -0.25}, f"−25.0{GLUE}%"),
    ],
)
def test_where_no_share_survives_it_says_why(changed: dict[str, float], said: str) -> None:
    row = survival.survival(judged()).iloc[0].to_dict()
    assert survival_table(pd.DataFrame([row | changed]), "attack_accuracy").rows[0][6] == said


def test_what_an_adaptation_adds_stands_beside_both_attacks() -> None:
    rows = {row[:3]: row[3:] for row in adapted_table(survival.adapted(judged()), "attack_accuracy").rows}
    assert set(rows) == {(MASKED, "a", "mean forward"), (TRUE, "b", "no Tanh")}
    seeds, plain, known, added = rows[MASKED, "a", "mean forward"]
    assert (seeds, plain, known) == ("2", f"10.0{GLUE}%", f"47.5{GLUE}%")
    assert added.startswith(f"37.5{GLUE}%")


def test_without_an_evaluator_gains_are_distances() -> None:
    row = survival.survival(judged()).iloc[0].to_dict()
    table = pd.DataFrame([row | {"gain": 0.5, "gain_low": 0.25, "gain_high": 0.75}])
    assert survival_table(table, "distance").rows[0][3] == f"0.50 [0.25,{GLUE}0.75]"
