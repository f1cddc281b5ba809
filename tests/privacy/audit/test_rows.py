"""Rows: what the ledger claims beside what was found, under both adjacencies."""

from __future__ import annotations

from dpmi.privacy.audit.rows import rows

from ..test_finding import finding
from .small import trained


def test_the_claim_is_that_of_the_ledger() -> None:
    engine = trained(steps_per_epoch=3)
    for row in rows("mine", engine.finding(), delta=1e-3):
        assert row.claimed == engine.guarantee(1e-3, adjacency=row.adjacency).epsilon
        assert 0 <= row.lower_bound < 1.4 * row.claimed


def test_one_row_per_adjacency() -> None:
    found = finding(1e-12)
    first, second = rows("mine", found, delta=1e-3)
    assert (first.configuration, first.adjacency, second.adjacency) == ("mine", "replace", "add_remove")
    assert first.claimed == found.claimed.epsilon(1e-3, "replace")
    assert first.lower_bound == found.lower_bound(1e-3, "replace")
    assert second.ceiling == found.ceiling.epsilon(1e-3, "add_remove")
    assert first.p_value == found.p_value
    assert first.verdict == found.verdict
