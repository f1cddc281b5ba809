"""``dpmi units``: a table for users and classes of a record-level run, and what is refused."""

from __future__ import annotations

import json

import pytest

from .conftest import Dpmi, is_one_line

RUN = ("units", "--sampling-rate", 0.01, "--noise-multiplier", 1, "--steps", 1000, "--delta", "1e-5")


def test_the_table(dpmi: Dpmi) -> None:
    outcome = dpmi(*RUN, "--records-per-unit", "user=10", "--records-per-unit", "class=100")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines() if line.strip()}
    assert rows["record"] == ["1", "2.844", "1.829", "2.844", "1.829"]
    assert rows["user"][0] == "10"
    assert float(rows["user"][2]) == pytest.approx(27.9, rel=1e-3)
    assert rows["user"][3:] == rows["record"][3:]
    assert rows["class"][0] == "100"


def test_json(dpmi: Dpmi) -> None:
    found = json.loads(dpmi(*RUN, "--records-per-unit", "user=5", "--json").out)
    assert [row["unit"] for row in found] == ["record", "user"]
    assert found[1]["sampled_by_record"]["add_remove"]["epsilon"] == pytest.approx(11.64, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("user",), "--records-per-unit is 'user'; give a unit and a number of records"),
        (("=3",), "--records-per-unit is '=3'"),
        (("user=many",), "'many' is not an integer"),
        (("user=0",), "records_per_unit of user must be at least 1, got 0"),
        (("user=3", "--records-per-unit", "user=4"), "gives 'user' twice"),
    ],
)
def test_what_is_no_unit(dpmi: Dpmi, given: tuple[str, ...], message: str) -> None:
    outcome = dpmi(*RUN, "--records-per-unit", *given)
    assert (outcome.code, outcome.out) == (2, "")
    assert is_one_line(outcome)
    assert message in outcome.err
