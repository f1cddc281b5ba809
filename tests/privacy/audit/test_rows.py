"""Rows: what the ledger claims beside what was found, under both adjacencies."""

from __future__ import annotations

from dpmi.privacy.audit.rows import claims_of, rows

from ..test_finding import finding
from .small import trained, wrap


def test_claims_are_those_of_the_ledger_and_0_if_nothing_was_charged() -> None:
    engine = trained(steps_per_epoch=3)
    claims = claims_of(engine, 1e-3)
    assert claims["replace"] == engine.guarantee(1e-3).epsilon
    assert claims["add_remove"] == engine.guarantee(1e-3, adjacency="add_remove").epsilon
    assert claims_of(wrap()[0], 1e-3) == {"replace": 0.0, "add_remove": 0.0}


def test_one_row_per_adjacency() -> None:
    found = finding(1e-12)
    first, second = rows("mine", {"replace": 8.0, "add_remove": 4.0}, found, delta=1e-3)
    assert (first.configuration, first.adjacency, first.claimed) == ("mine", "replace", 8.0)
    assert (second.adjacency, second.claimed) == ("add_remove", 4.0)
    assert first.lower_bound == found.lower_bound(1e-3, "replace")
    assert second.ceiling == found.ceiling.epsilon(1e-3, "add_remove")
    assert first.p_value == found.p_value
    assert first.verdict == found.verdict
