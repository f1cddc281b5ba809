"""Audit by many runs: one canary, many cheap trainings with and without it.

It assumes nothing but the definition of differential privacy. It is expensive for it: with n runs, no bound can exceed
about log(n / 4), whatever the true epsilon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from accountants import checks

from .one_run import clopper_pearson


@dataclass(frozen=True, kw_only=True)
class ManyRuns:
    """What many runs show.

    Args:
        lower_bound: epsilon at least, with the confidence.
        ceiling: the lower bound if no guess were wrong.
        threshold: score from which on "in" was guessed; chosen on the first half of the runs.
        runs: number of runs in the second half, from which the bound is.
        confidence: of the bound.

    >>> found = many_runs(lambda inside, seed: 100.0 * inside + seed % 7, 40, delta=1e-5, seed=0)
    >>> found.runs, round(found.lower_bound, 2), round(found.ceiling, 2)  # never a wrong guess
    (20, 0.63, 0.63)
    >>> found.threshold, found.confidence
    (100.0, 0.95)
    """

    lower_bound: float
    ceiling: float
    threshold: float
    runs: int
    confidence: float


def many_runs(
    score: Callable[[bool, int], float],
    runs: int,
    *,
    delta: float,
    confidence: float = 0.95,
    seed: int | None = None,
) -> ManyRuns:
    """Train many times, half of the time with the canary, and bound epsilon by the error rates of a threshold.

    Args:
        score: ``score(inside, seed)`` trains once, with the canary bucket if ``inside``, and returns a number that is
            higher if the canary was in. Its noise must be new in every call.
        runs: number of trainings, at least 20.
        delta: in [0, 1).
        confidence: in (0.5, 1).
        seed: of the coins; None draws it from the operating system.

    Raises:
        ValueError: too few runs, or all scores are equal.

    >>> noise = np.random.default_rng(0)
    >>> def one_training(inside: bool, seed: int) -> float:
    ...     return inside + noise.normal(scale=0.5)  # in place of a training that leaks its canary
    >>> found = many_runs(one_training, 500, delta=1e-5, seed=0)
    >>> round(found.lower_bound, 2), round(found.ceiling, 2)
    (2.58, 3.34)
    """
    checks.integer("runs", runs, minimum=20)
    generator = np.random.default_rng(seed)
    coins = generator.permutation(np.resize([True, False], runs))
    found = np.array([score(bool(coin), i) for i, coin in enumerate(coins)], dtype=np.float64)
    if np.ptp(found) == 0:
        raise ValueError(
            f"all {runs} scores are equal, so they tell nothing about the canary; use another score"
        )

    def bound(half: slice, threshold: float) -> float:
        mine, scores = coins[half], found[half]
        return clopper_pearson(
            scores[mine], scores[~mine], threshold=threshold, delta=delta, confidence=confidence
        )

    first, second = slice(None, runs // 2), slice(runs // 2, None)
    threshold = max(np.unique(found[first]).tolist(), key=lambda at: bound(first, at))
    inside = int(coins[second].sum())
    outside = len(coins[second]) - inside
    return ManyRuns(
        lower_bound=bound(second, threshold),
        ceiling=clopper_pearson(
            np.ones(inside), np.zeros(outside), threshold=0.5, delta=delta, confidence=confidence
        ),
        threshold=threshold,
        runs=inside + outside,
        confidence=confidence,
    )
