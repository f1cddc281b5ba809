"""How a statement describes the draws of the charged steps."""

from __future__ import annotations

from typing import Any

from accountants import BallsInBins, BucketMechanism, FixedNumber, Ledger, TruncatedPoisson
from accountants.mechanism import Mechanism, sampler

_EMPTY = "an empty draw is also a step, with noise only, and is charged"
_WHOLE_PASS = (
    "every bucket is assigned to one step of a pass, uniformly at random and independently of the others; a step "
    "without buckets is also a step, with noise only; a pass is charged whole when its first step is released"
)
_FIXED = (
    "a fixed number of buckets is drawn as wholes, uniformly at random and without replacement; adding or removing a "
    "bucket has no epsilon, because it would change the rate at which all others are drawn"
)


def sampling(ledger: Ledger, unit: str) -> str:
    """Return how the buckets of the steps were drawn, in words."""
    kinds = dict.fromkeys(type(mechanism) for mechanism, _ in ledger.runs)
    poisson = (
        f"every {unit} is drawn as a whole and independently of the others, with the sampling rate as its "
        "probability (Poisson sampling)"
    )
    texts: dict[type[Mechanism], str] = {
        BucketMechanism: f"{poisson}; {_EMPTY}",
        FixedNumber: _FIXED,
        TruncatedPoisson: f"{poisson}; of more than the largest number, a uniformly random subset is used; {_EMPTY}",
        BallsInBins: _WHOLE_PASS,
    }
    return "; in other runs, ".join(texts[kind] for kind in kinds or (BucketMechanism,))


def divisor(ledger: Ledger) -> str:
    """Return what the noisy sums were divided by, in words."""
    plain = all(type(mechanism) is BucketMechanism for mechanism, _ in ledger.runs)
    return "sampling rate times number of buckets" if plain else "the expected number of buckets of a step"


def charged(ledger: Ledger) -> str:
    """Return the runs of a ledger in words; "none" if there are none."""
    in_all = f"{ledger.steps} in total: " if len(ledger.runs) > 1 else ""
    return in_all + ("; ".join(_run(mechanism, times) for mechanism, times in ledger.runs) or "none")


def runs(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the runs of a ledger as JSON values; ``times`` is the number of charges: steps, or passes."""
    return [
        {**vars(mechanism), "steps": times}
        if type(mechanism) is BucketMechanism
        else {"sampler": sampler(mechanism), **vars(mechanism), "times": times}
        for mechanism, times in ledger.runs
    ]


def _run(mechanism: Mechanism, times: int) -> str:
    noise = f"noise multiplier {mechanism.noise_multiplier:.10g}"
    if isinstance(mechanism, FixedNumber):
        return f"{times} with {mechanism.drawn} of {mechanism.units} buckets and {noise}"
    if isinstance(mechanism, TruncatedPoisson):
        return (
            f"{times} with sampling rate {mechanism.sampling_rate:.10g}, at most {mechanism.most} of "
            f"{mechanism.units} buckets and {noise}"
        )
    if isinstance(mechanism, BallsInBins):
        return f"{times} passes of {mechanism.steps_per_pass} steps with {noise}"
    return f"{times} with sampling rate {mechanism.sampling_rate:.10g} and {noise}"
