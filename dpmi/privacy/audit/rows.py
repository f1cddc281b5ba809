"""The table of an audit: what is claimed, what was found, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from accountants import ADJACENCIES, Adjacency

from ..finding import Finding


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a training under one adjacency.

    Args:
        configuration: what was trained.
        adjacency: "replace" or "add_remove".
        claimed: epsilon of the ledger.
        lower_bound: epsilon at least, with 95 % confidence.
        ceiling: the lower bound that a perfect run reaches on average with as many canaries.
        p_value: of the most unusual check, corrected for their number.
        verdict: "consistent", or "violated (p = ...)" with the check.
    """

    configuration: str
    adjacency: Adjacency
    claimed: float
    lower_bound: float
    ceiling: float
    p_value: float
    verdict: str


def rows(configuration: str, finding: Finding, *, delta: float) -> list[Row]:
    """Return one row per adjacency."""
    return [
        Row(
            configuration=configuration,
            adjacency=adjacency,
            claimed=finding.claimed.epsilon(delta, adjacency),
            lower_bound=finding.lower_bound(delta, adjacency),
            ceiling=finding.ceiling.epsilon(delta, adjacency),
            p_value=finding.p_value,
            verdict=finding.verdict,
        )
        for adjacency in ADJACENCIES
    ]
