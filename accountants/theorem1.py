"""The closed form of the class-DP paper, for comparison with the paper only; never a guarantee.

Zhang et al. 2020: epsilon = 4 q sqrt(T ln(1/delta)) / sigma when a bucket is replaced (Theorem 1 for classes, Corollary
1 for subclasses), half of it when one is added or removed (Remark 1). Both depend on Lemma 3, whose eq. (7) uses
e^x - 1 <= x, which is false. A factor 2 of slack in eq. (8) compensates for it only if sigma >= 1.785. So the formula
can lie below the exact epsilon of the same run even if every stated condition holds.
"""

from __future__ import annotations

import math

from accountants.guarantee import Adjacency, Bound, Condition
from accountants.mechanism import BucketMechanism, Totals, poisson

NOT_AN_UPPER_BOUND = (
    "the proof uses e^x - 1 <= x (eq. (7)), which is false, so epsilon can be below the true value "
    "even where every stated condition holds"
)


def bound(totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return the closed form, with each condition that the paper states for it.

    Raises:
        ValueError: the run has different mechanisms, or one that is not Poisson sampling; the closed form covers one
            (q, sigma) only.
    """
    if len(totals) > 1:
        raise ValueError(
            "theorem1 covers one sampling_rate and one noise_multiplier only, and the run has "
            f"{len(totals)} different mechanisms: use accountant='tight' or 'lemma3'"
        )
    ((charged, steps),) = totals.items()
    mechanism = poisson(charged, "theorem1")
    factor, constant = (4, 64) if adjacency == "replace" else (2, 32)
    root = math.sqrt(-steps * math.log(delta))
    epsilon = factor * mechanism.sampling_rate * root / mechanism.noise_multiplier
    return Bound(epsilon, conditions=_conditions(mechanism, steps, delta, epsilon, constant))


def _conditions(
    mechanism: BucketMechanism, steps: int, delta: float, epsilon: float, constant: int
) -> tuple[Condition, ...]:
    """Evaluate the conditions of Lemma 3 and of the theorem.

    The first and the last are equivalent when epsilon is the closed form; the paper states both.
    """
    q, sigma = mechanism.sampling_rate, mechanism.noise_multiplier
    rate_limit = 1 / (16 * sigma)
    # The proof needs alpha <= kappa epsilon / 2 and e^(-kappa epsilon / 2) <= delta. With the theorem's sigma, exactly
    # one order kappa satisfies both.
    kappa = -2 * math.log(delta) / epsilon
    order_limit = -sigma * sigma * math.log(q * sigma)
    theorem_limit = math.sqrt(epsilon / (constant * math.sqrt(-steps * math.log(delta))))
    return (
        Condition(
            "q < 1/(16 sigma)",
            q < rate_limit,
            f"q = {q:.4g}, 1/(16 sigma) = {rate_limit:.4g}",
        ),
        Condition(
            "kappa <= sigma^2 ln(1/(q sigma))",
            kappa <= order_limit,
            f"kappa = 2 ln(1/delta)/epsilon = {kappa:.4g}, sigma^2 ln(1/(q sigma)) = {order_limit:.4g}",
        ),
        Condition(
            f"q < sqrt(epsilon/({constant} sqrt(T ln(1/delta))))",
            q < theorem_limit,
            f"q = {q:.4g}, right-hand side = {theorem_limit:.4g}",
        ),
    )
