"""Rows: what the ledger claims beside what was found, under both adjacencies."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict

import pytest

from dpmi.privacy.audit.rows import read_rows, rows

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


def test_what_was_printed_is_read_again() -> None:
    printed = rows("mine", finding(1e-12), delta=1e-3)
    assert read_rows(json.dumps([asdict(row) for row in printed])) == printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verdict": "fine"}, "row 0: verdict must begin with consistent or violated, got 'fine'"),
        ({"claimed": math.nan}, "row 0: claimed must be a number of at least 0, got nan"),
        ({"p_value": True}, "row 0: p_value must be a number"),
        ({"adjacency": "both"}, "row 0: adjacency must be one of replace, add_remove, got 'both'"),
        ({"more": 1}, "unknown: 'more'"),
    ],
)
def test_what_was_not_printed_so_is_refused(change: dict[str, object], words: str) -> None:
    row = asdict(rows("mine", finding(1e-12), delta=1e-3)[0])
    with pytest.raises(ValueError, match=re.escape(words)):
        read_rows(json.dumps([{**row, **change}]))


def test_no_rows_and_no_list_are_refused() -> None:
    with pytest.raises(ValueError, match="has no rows"):
        read_rows("[]")
    with pytest.raises(ValueError, match="must be a list"):
        read_rows("{}")
