"""All accountants on one run, under both adjacencies: which results are upper bounds, and why.

>>> from accountants.explanation import explain
>>> rows = explain(sampling_rate=0.2, noise_multiplier=1.6, steps=200, delta=1e-3, unit="class")
>>> for row in rows:
...     print(row.accountant, row.adjacency, row.is_bound, row.is_smallest)
tight replace True True
tight add_remove True True
lemma3 replace True False
lemma3 add_remove True False
theorem1 replace False False
theorem1 add_remove False False
opacus-rdp replace False False
opacus-rdp add_remove True False
opacus-prv replace False False
opacus-prv add_remove True False
opacus-gdp replace False False
opacus-gdp add_remove False False

The number to report is the smallest bound under replacement, the adjacency of class-DP:

>>> next(row for row in rows if row.is_smallest and row.adjacency == "replace").accountant
'tight'
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from accountants.explanation_opacus import Row, compared, opacus_rows, trivial
from accountants.guarantee import ADJACENCIES, Adjacency, Guarantee
from accountants.ledger import Ledger
from accountants.mechanism import BucketMechanism, poisson
from accountants.profile import PrivacyProfile

METHODS: dict[tuple[str, Adjacency], str] = {
    ("tight", "replace"): (
        "composes the pair that dominates the replacement of a bucket, (1-q) N(0, s^2) + q N(-1, s^2) against its "
        "mirror image (Lebeda et al. 2025, Prop. 13)"
    ),
    ("tight", "add_remove"): (
        "composes adding and removing separately and takes the larger delta (Zhu, Dong, Wang 2022, Thm 11)"
    ),
    ("lemma3", "replace"): (
        "moments, at the best real order, of the pair N(0, s^2) against (1-q) N(0, s^2) + q N(2, s^2) (Zhang et al. "
        "2020, Lemma 3); this is not the pair of a replacement, but its moments are larger"
    ),
    ("lemma3", "add_remove"): (
        "moments, at the best real order, of one bucket removed, the larger of adding and removing (Mironov, Talwar, "
        "Zhang 2019, Thm 5)"
    ),
    ("theorem1", "replace"): "closed form 4 q sqrt(T ln(1/delta)) / sigma (Zhang et al. 2020, Theorem 1)",
    ("theorem1", "add_remove"): "closed form 2 q sqrt(T ln(1/delta)) / sigma (Zhang et al. 2020, Remark 1)",
}


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The result of one accountant for a run under one adjacency, and whether it is an upper bound.

    Attributes:
        accountant: "tight", "lemma3", "theorem1", "opacus-rdp", "opacus-prv" or "opacus-gdp".
        adjacency: one of `ADJACENCIES`.
        epsilon: in [0, inf]; None if the accountant does not apply or cannot compute this run.
        is_bound: whether epsilon is known to be an upper bound, either by proof or because it is not below a proven
            one. Never for theorem1 and opacus-gdp: for other runs they are below the true value, so a value that is
            large enough here is a coincidence.
        is_smallest: whether it is the smallest bound in the table for its adjacency, which is the number to report.
        reason: why it is a bound or not, with the numbers of this run.
        mu: of Gaussian differential privacy, as :attr:`PrivacyProfile.mu`, by the tight accountant; None for others,
            and if it cannot be computed.
        unit: what one bucket is, in the user's words.
        delta: in (0, 1).
        steps: the number of steps that epsilon covers.

    >>> table = explain(sampling_rate=0.1, noise_multiplier=2.0, steps=50, delta=1e-3, unit="class")
    >>> [row.accountant for row in table if row.adjacency == "replace"]
    ['tight', 'lemma3', 'theorem1', 'opacus-rdp', 'opacus-prv', 'opacus-gdp']
    >>> [(row.accountant, round(row.epsilon, 2)) for row in table if row.is_smallest]
    [('tight', 2.05), ('tight', 1.05)]
    """

    accountant: str
    adjacency: Adjacency
    epsilon: float | None
    is_bound: bool
    is_smallest: bool
    reason: str
    unit: str
    delta: float
    steps: int
    mu: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; an infinite epsilon or mu is the string "inf", None is null."""
        return {name: "inf" if value == math.inf else value for name, value in asdict(self).items()}


def explain(
    *,
    sampling_rate: float,
    noise_multiplier: float,
    steps: int,
    delta: float,
    unit: str,
    buckets: int | None = None,
) -> tuple[Explanation, ...]:
    """Return the result of every accountant under both adjacencies, in a fixed order.

    Three of the six accountants are Opacus's; this imports Opacus and torch.

    Args:
        sampling_rate: probability in (0, 1] of drawing one bucket.
        noise_multiplier: std / max_grad_norm, >= 0; 0 gives an infinite epsilon.
        steps: number of steps, >= 0; 0 gives epsilon 0.
        delta: in (0, 1). If an accountant cannot compute a run, its row says why.
        unit: what one bucket is: "class", "subclass", a column name.
        buckets: K, the number of buckets, if known; used only to warn about a delta of 1/K or more.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Warns:
        UserWarning: delta >= 1 / buckets; noise_multiplier is 0.
    """
    mechanism = BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)
    return explain_ledger(Ledger().record(mechanism, steps), delta=delta, unit=unit, buckets=buckets)


def explain_ledger(
    ledger: Ledger, *, delta: float, unit: str, buckets: int | None = None
) -> tuple[Explanation, ...]:
    """Return the same as `explain` for the steps of a ledger, which may have several sampling rates and noises.

    Raises:
        TypeError, ValueError: as `explain` does, or a step is not Poisson-sampled.

    >>> step = BucketMechanism(sampling_rate=0.1, noise_multiplier=2.0)
    >>> table = explain_ledger(Ledger().record(step, steps=50), delta=1e-3, unit="class")
    >>> [row.accountant for row in table if row.adjacency == "replace" and row.is_bound]
    ['tight', 'lemma3']
    """
    for mechanism in ledger.totals:
        poisson(mechanism, "explain")
    # An empty ledger is answered without any accountant: this checks the request, once.
    Ledger().guarantee(delta=delta, unit=unit, buckets=buckets)
    rows = _own_rows(ledger, delta=delta, unit=unit)
    tight = next(row.epsilon for row in rows if (row.accountant, row.adjacency) == ("tight", "add_remove"))
    rows += opacus_rows(ledger, delta=delta, tight=tight)

    smallest = [_smallest_bound(rows, adjacency) for adjacency in ADJACENCIES]
    return tuple(
        Explanation(
            **row._asdict(),
            is_smallest=row in smallest,
            unit=unit,
            delta=float(delta),
            steps=ledger.steps,
            mu=_mu(ledger, unit, row.adjacency) if row.accountant == "tight" else None,
        )
        for row in rows
    )


def _own_rows(ledger: Ledger, *, delta: float, unit: str) -> list[Row]:
    known = trivial(ledger)
    rows: list[Row] = []
    tight: dict[Adjacency, float | None] = {}
    for (accountant, adjacency), method in METHODS.items():
        try:
            found = ledger.guarantee(delta=delta, unit=unit, adjacency=adjacency, accountant=accountant)
        except ValueError as refusal:
            # The request was checked above, so the error is a limit of this accountant.
            rows.append(Row(accountant, adjacency, None, False, f"not computed: {refusal}"))
            tight.setdefault(adjacency, None)
            continue
        reason = known[1] if known else "; ".join([method, *_conditions(found), *found.caveats])
        # The first row of each adjacency is the tight one.
        if not known and adjacency in tight:
            reason += compared(found.epsilon, tight[adjacency])
        tight.setdefault(adjacency, found.epsilon)
        rows.append(Row(accountant, adjacency, found.epsilon, found.is_guarantee, reason))
    return rows


def _mu(ledger: Ledger, unit: str, adjacency: Adjacency) -> float | None:
    try:
        return PrivacyProfile(ledger=ledger, unit=unit, adjacency=adjacency).mu
    except ValueError:  # the row of the tight accountant says why
        return None


def _conditions(found: Guarantee) -> list[str]:
    """Say which conditions of the published statement fail for this run, with their numbers."""
    if not found.conditions:
        return []
    failing = [f"{c.statement} ({c.detail})" for c in found.conditions if not c.holds]
    return [
        f"fails here: {', '.join(failing)}" if failing else "every condition that the paper states holds here"
    ]


def _smallest_bound(rows: list[Row], adjacency: Adjacency) -> Row | None:
    bounds = [row for row in rows if row.adjacency == adjacency and row.is_bound]
    # `min` returns the first of equal ones; `tight` stands before the others.
    return min(bounds, key=lambda row: math.inf if row.epsilon is None else row.epsilon, default=None)
