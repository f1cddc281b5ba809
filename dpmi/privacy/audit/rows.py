"""The table of an audit: what is claimed, what was found, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, fields

from accountants import ADJACENCIES, Adjacency, sealed_json

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


def read_rows(text: str) -> list[Row]:
    """Return the rows that ``dpmi audit --json`` printed.

    Raises:
        ValueError: the text holds no rows, or something else; the message names the part.
    """
    numbers = ("claimed", "lower_bound", "ceiling", "p_value")
    found = []
    for place, value in enumerate(sealed_json.items("the audit", sealed_json.load(text))):
        with sealed_json.inside(f"row {place}"):
            row = sealed_json.exactly(value, [field.name for field in fields(Row)])
            if row["adjacency"] not in ADJACENCIES:
                raise ValueError(
                    f"adjacency must be one of {', '.join(ADJACENCIES)}, got {row['adjacency']!r}"
                )
            for name in numbers:
                if type(row[name]) not in (int, float) or not row[name] >= 0:
                    raise ValueError(f"{name} must be a number of at least 0, got {row[name]!r}")
            verdict = row["verdict"]
            if not isinstance(verdict, str) or not verdict.startswith(("consistent", "violated")):
                raise ValueError(f"verdict must begin with consistent or violated, got {verdict!r}")
            found.append(Row(**{**row, "configuration": str(row["configuration"])}))
    if not found:
        raise ValueError("the audit has no rows; write it with dpmi audit --json")
    return found
