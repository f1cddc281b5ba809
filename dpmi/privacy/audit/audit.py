"""White-box audit of a training run: its settings."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from torch import nn

from accountants import checks

from ..finding import Estimate
from ..plan import Plan
from .aligned import expected
from .recorder import Recorder

COORDINATES = 20
"""Parameters that every canary needs at least, so that the others' gradients hardly reach its direction."""

DELTA = 1e-5
"""The delta at which the power of an audit is computed."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Watches a private run with canary buckets, for ``make_private(..., audit=Audit())``.

    A canary is a bucket without records. Its gradient is a secret random direction, and a secret coin decides whether
    it is in or out, or has this direction or its opposite. It is drawn, clipped, noised and charged like any other
    bucket. ``engine.finding()`` then says which epsilon the run has at least, and whether noise, draws and
    contributions are what the ledger claims.

    Canaries move the model a little, and the divisor of the noisy sum counts them: multiply the learning rate by
    (K + canaries) / K for steps as long as without them. The promise to the K real buckets is unchanged.

    Args:
        canaries: number of canary buckets, at least 2, and at most a twentieth of the trained parameters.
        confidence: of the lower bound, in (0.5, 1).
        power: the least share of the claimed epsilon, in [0, 1), that the lower bound can reach after one pass over
            the loader; a run whose ceiling is below is refused before training.
        seed: of the secrets; None draws them from the operating system. A run that knows its canaries can hide from
            them.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.
    """

    canaries: int = 200
    confidence: float = 0.95
    power: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        checks.integer("canaries", self.canaries, minimum=2)
        if not 0.5 < checks.real("confidence", self.confidence) < 1:
            raise ValueError(f"confidence must be in (0.5, 1), got {self.confidence}")
        if not 0 <= checks.real("power", self.power) < 1:
            raise ValueError(f"power must be in [0, 1), got {self.power}")
        if self.seed is not None:
            checks.integer("seed", self.seed, minimum=0)

    def observe(self, plan: Plan, trained: list[nn.Parameter], *, steps: int) -> Recorder:
        """Start to watch a run.

        Args:
            plan: the run's plan.
            trained: its parameters.
            steps: logical steps of one pass.

        Raises:
            ValueError: the plan adds no noise, the model is too small for the canaries, or the ceiling is too low.
        """
        if plan.noise_multiplier == 0:
            raise ValueError(
                "audit is given, but noise_multiplier is 0: the run promises nothing that could be tested"
            )
        d = sum(p.numel() for p in trained)
        most = most_canaries(d)
        if self.canaries > most:
            raise ValueError(
                f"canaries is {self.canaries}, but a model of {d} trained parameters has room for {most} (one for "
                f"{COORDINATES} parameters); use at most {most}"
                + (", or a larger model" if most >= 2 else ": this model is too small for an audit")
            )
        if self.power:
            self._check_power(plan, d, steps)
        return Recorder(
            plan,
            trained,
            confidence=self.confidence,
            seed=secrets.randbits(64) if self.seed is None else self.seed,
        )

    def _check_power(self, plan: Plan, d: int, steps: int) -> None:
        """Raise if a perfect run of one pass would not reach the asked share of its claim."""
        perfect = expected(
            canaries=self.canaries,
            dimensions=d,
            sampling_rate=plan.rate,
            noise_multiplier=plan.noise_multiplier,
            steps=steps,
        )
        claim = Estimate(
            sampling_rate=plan.rate, noise_multiplier=plan.noise_multiplier, steps=steps
        ).epsilon(DELTA, "replace")
        reached = perfect.estimate(self.confidence).epsilon(DELTA, "replace")
        if reached < self.power * claim:
            raise ValueError(
                f"power is {self.power}, but with {self.canaries} canaries and {steps} steps the lower bound cannot "
                f"exceed {reached:.3g} where the claim is {claim:.3g} (delta = {DELTA}), a share of "
                f"{reached / claim:.2f}; use more canaries (a model of {d} parameters has room for "
                f"{most_canaries(d)}), more steps, or a lower power"
            )


def most_canaries(parameters: int) -> int:
    """Return the number of canaries that a model with this many trained parameters has room for.

    >>> most_canaries(650), most_canaries(26_000)  # a head of 64 features for ten classes, and a small network
    (32, 1300)
    """
    return parameters // COORDINATES
