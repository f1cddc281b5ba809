"""The result of an audit: what was measured of a run, against what it claims.

A finding is a lower bound with confidence, and a list of checks. It finds faults; it proves no promise.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from accountants import ADJACENCIES, Adjacency, BucketMechanism, Ledger, checks

VIOLATED = 1e-6
"""A run is called violated if a correct one would look so by chance less often than this, over all of its checks."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property of a run that was compared with the claim.

    Args:
        name: what was measured, with its unit.
        claimed: the value that the claim implies, or the limit.
        found: the measured value.
        p_value: probability in [0, 1] of a value at least as far from the claim, if the claim is true.

    >>> noise = Check(name="standard deviation of the noise", claimed=2.0, found=1.99, p_value=0.4)
    >>> steps = Check(name="released steps", claimed=5.0, found=6.0, p_value=0.0)
    >>> min(noise, steps, key=lambda check: check.p_value).name  # what contradicts the claim
    'released steps'
    """

    name: str
    claimed: float
    found: float
    p_value: float

    def __post_init__(self) -> None:
        if not 0 <= checks.real("p_value", self.p_value) <= 1:
            raise ValueError(f"check {self.name!r}: p_value must be in [0, 1], got {self.p_value}")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A run as seen from outside: Gaussian noise on Poisson-sampled buckets.

    Args:
        sampling_rate: q in [0, 1]; 0 if no contribution was seen.
        noise_multiplier: noise / largest contribution of one bucket, above 0.
        steps: number of releases.

    >>> seen = Estimate(sampling_rate=0.1, noise_multiplier=2.0, steps=50)
    >>> round(seen.epsilon(1e-3, "replace"), 2), round(seen.epsilon(1e-3, "add_remove"), 2)
    (2.05, 1.05)
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int

    def epsilon(self, delta: float, adjacency: Adjacency) -> float:
        """Return epsilon of such a run by the tight accountant."""
        return 0.0 if self.sampling_rate == 0 or self.steps == 0 else _epsilon(self, delta, adjacency)


@lru_cache(maxsize=256)  # a statement and a table ask for the same ones again
def _epsilon(estimate: Estimate, delta: float, adjacency: Adjacency) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rate of 1 is what was measured, not what anybody chose
        mechanism = BucketMechanism(
            sampling_rate=min(estimate.sampling_rate, 1.0), noise_multiplier=estimate.noise_multiplier
        )
        run = Ledger().record(mechanism, estimate.steps)
        return run.guarantee(delta=delta, unit="bucket", adjacency=adjacency).epsilon


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an audit found in one run.

    Args:
        canaries: number of canary buckets.
        confidence: of the lower bound, in (0.5, 1).
        claimed: what the ledger charges.
        at_least: the run at the confidence limits of its noise, sensitivity and sampling rate.
        ceiling: the same limits for a perfect run with as many canaries and steps.
        checks: every check that was made.

    >>> claimed = Estimate(sampling_rate=0.1, noise_multiplier=2.0, steps=50)
    >>> at_least = Estimate(sampling_rate=0.09, noise_multiplier=2.1, steps=50)
    >>> found = Finding(
    ...     canaries=100, confidence=0.95, claimed=claimed, at_least=at_least, ceiling=at_least,
    ...     checks=(
    ...         Check(name="noise", claimed=2.0, found=2.01, p_value=0.4),
    ...         Check(name="empty draws", claimed=1.0, found=9.0, p_value=1e-8),
    ...     ))
    >>> found.verdict
    'violated (p = 2e-08): empty draws is 9, not 1'
    >>> round(found.lower_bound(1e-3, "replace"), 2)
    1.7
    """

    canaries: int
    confidence: float
    claimed: Estimate
    at_least: Estimate
    ceiling: Estimate
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        checks.integer("canaries", self.canaries, minimum=1)
        if not 0.5 < checks.real("confidence", self.confidence) < 1:
            raise ValueError(f"confidence must be in (0.5, 1), got {self.confidence}")
        if not self.checks:
            raise ValueError("checks is empty; a finding needs at least 1")

    @property
    def p_value(self) -> float:
        """The smallest p-value of the checks, corrected for their number (Bonferroni)."""
        return min(1.0, len(self.checks) * self.worst.p_value)

    @property
    def worst(self) -> Check:
        """The check with the smallest p-value."""
        return min(self.checks, key=lambda check: check.p_value)

    @property
    def violated(self) -> bool:
        """Whether a check contradicts the claim."""
        return self.p_value < VIOLATED

    @property
    def verdict(self) -> str:
        """ "consistent", or "violated" with the check and its p-value."""
        if not self.violated:
            return "consistent"
        worst = self.worst
        return (
            f"violated (p = {self.p_value:.1g}): {worst.name} is {worst.found:.4g}, not {worst.claimed:.4g}"
        )

    def lower_bound(self, delta: float, adjacency: Adjacency) -> float:
        """Return the epsilon that the run has at least, with the finding's confidence.

        It holds if the releases are a Poisson-subsampled Gaussian mechanism with some noise, sensitivity and rate.
        """
        return self.at_least.epsilon(delta, adjacency)

    def text(self, delta: float) -> str:
        """Return one sentence per adjacency for a privacy statement."""
        parts = []
        for adjacency in ADJACENCIES:
            low, most = (e.epsilon(delta, adjacency) for e in (self.at_least, self.ceiling))
            parts.append(
                f"epsilon is at least {low:.3g} under {adjacency} adjacency (the ceiling of this test is {most:.3g})"
            )
        start = (
            "consistent with the claim" if not self.violated else self.verdict.upper()[:8] + self.verdict[8:]
        )
        return (
            f"{start}; {'; '.join(parts)}; {self.confidence:.0%} confidence, white box, {self.canaries} canary buckets "
            f"that took part in {self.at_least.steps} steps. The canaries moved the model, and the divisor counts them"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "canaries": self.canaries,
            "confidence": self.confidence,
            **{name: vars(getattr(self, name)) for name in ("claimed", "at_least", "ceiling")},
            "checks": [vars(check) for check in self.checks],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Return the finding that :meth:`to_dict` returned.

        Raises:
            ValueError, TypeError, KeyError: a part is missing, unknown or out of range.
        """
        return cls(
            canaries=values["canaries"],
            confidence=values["confidence"],
            claimed=Estimate(**values["claimed"]),
            at_least=Estimate(**values["at_least"]),
            ceiling=Estimate(**values["ceiling"]),
            checks=tuple(Check(**check) for check in values["checks"]),
        )
