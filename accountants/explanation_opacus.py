"""What Opacus's own accountants say of the same run, and how far each can be believed.

All three know one change only: a bucket removed, N(0, s^2) against (1-q) N(0, s^2) + q N(1, s^2). Opacus is
imported when the rows are asked for: it brings torch with it, which takes seconds.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

from accountants.guarantee import Adjacency
from accountants.mechanism import BucketMechanism

PRV_POINTS = 5e6
"""Largest grid that PRV is asked to compose: seconds, and about a gigabyte."""

PRV_LARGEST_LOSS = 700.0
"""PRV exponentiates the privacy losses on its grid; float64 ends at e^709."""

NOT_FOR_REPLACEMENT = {
    "opacus-rdp": (
        "does not apply: Opacus computes the moments of one bucket removed, at distance S; replacing one moves the "
        "sum by up to 2 S, and the same moments at half the noise are those of `lemma3`, replace"
    ),
    "opacus-prv": (
        "does not apply: Opacus knows only the pair of one bucket removed; composing the pair of a replacement "
        "is what `tight`, replace does"
    ),
    "opacus-gdp": (
        "does not apply: its mu = q sqrt(T (e^(1/sigma^2) - 1)) is made of the pair of one bucket removed; there is "
        "no such formula for a replacement in Opacus"
    ),
}


class Row(NamedTuple):
    """The part of an `Explanation` that one accountant answers for; the rest is the request."""

    accountant: str
    adjacency: Adjacency
    epsilon: float | None
    is_bound: bool
    reason: str


def compared(epsilon: float, tight: float | None) -> str:
    """Return how far an epsilon is from the tight one, as the end of a sentence; empty where that one is None."""
    if tight is None:
        return ""
    if epsilon == tight:
        return "; the tight epsilon here is the same"
    side = "below" if epsilon < tight else "above"
    return f"; {abs(epsilon - tight):.3g} {side} the tight epsilon here"


def trivial(mechanism: BucketMechanism, steps: int) -> tuple[float, str] | None:
    """Return epsilon and the reason where no accountant is needed to know it."""
    if steps == 0:
        return 0.0, "no step was taken, so nothing was released"
    if mechanism.noise_multiplier == 0:
        return math.inf, "noise_multiplier is 0: what is released is not noisy, and no epsilon bounds it"
    return None


def opacus_rows(mechanism: BucketMechanism, steps: int, *, delta: float, tight: float | None) -> list[Row]:
    """Return one row for each of Opacus's accountants and each adjacency; arguments are trusted.

    Args:
        mechanism: the step.
        steps: at least 0.
        delta: in (0, 1).
        tight: the tight epsilon under add_remove, where the tight accountant answers.
    """
    known = trivial(mechanism, steps)
    rows = []
    for name, answer in _ACCOUNTANTS.items():
        rows.append(Row(name, "replace", None, False, NOT_FOR_REPLACEMENT[name]))
        if known is not None:
            epsilon, reason = known
            rows.append(Row(name, "add_remove", epsilon, name != "opacus-gdp", reason))
            continue
        # Opacus warns on stderr of what the reasons say in full.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows.append(Row(name, "add_remove", *answer(mechanism, steps, delta, tight)))
            except (ImportError, ValueError, RuntimeError, ArithmeticError) as error:
                why = f"no answer from Opacus here ({type(error).__name__}: {error})"
                rows.append(Row(name, "add_remove", None, False, why))
    return rows


_Answer = tuple[float | None, bool, str]


def _history(accountant: Any, mechanism: BucketMechanism, steps: int) -> Any:
    accountant.history = [(mechanism.noise_multiplier, mechanism.sampling_rate, steps)]
    return accountant


def _rdp(mechanism: BucketMechanism, steps: int, delta: float, tight: float | None) -> _Answer:
    """Mironov, Talwar, Zhang 2019, Thm 5: at every order the moment of removing is the larger one."""
    from opacus.accountants import RDPAccountant  # noqa: PLC0415

    accountant = _history(RDPAccountant(), mechanism, steps)
    spent, order = accountant.get_privacy_spent(delta=delta)
    epsilon = max(0.0, float(spent))
    orders = accountant.DEFAULT_ALPHAS
    reason = (
        "the same moments as `lemma3`, exact and at each order the larger of adding and removing, but at "
        f"{len(orders)} fixed orders (best here: {order:g})"
    )
    if order in (orders[0], orders[-1]):
        reason += ", an end of Opacus's range: looser than these moments need be"
    return epsilon, True, reason + compared(epsilon, tight)


def _prv(mechanism: BucketMechanism, steps: int, delta: float, tight: float | None) -> _Answer:
    """Gopi, Lee, Wutschitz 2021, as Opacus implements it: `get_epsilon` returns the upper end.

    The proof covers removal, and exact arithmetic. Adding has to be composed by itself (Lebeda, Regehr, Kamath,
    Steinke 2025), and the rounding errors of the Fourier transform are in neither error term: without sampling, at
    noise multiplier 20, 10,000 steps and delta 1e-12 Opacus answers 47.008, and the exact value is 47.049. So the
    number is taken for a bound only where it is not below one.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415
    from opacus.accountants.analysis.prv import (  # noqa: PLC0415
        PoissonSubsampledGaussianPRV,
        compute_safe_domain_size,
    )

    # Opacus's own defaults and its own grid, sized before it is allocated.
    eps_error, delta_error = 0.01, delta / 1000
    prv = PoissonSubsampledGaussianPRV(mechanism.sampling_rate, mechanism.noise_multiplier)
    loss = float(compute_safe_domain_size([prv], [steps], eps_error=eps_error, delta_error=delta_error))
    points = 2 * loss * math.sqrt(steps * math.log(12 / delta_error) / 2) / eps_error
    if loss > PRV_LARGEST_LOSS or points > PRV_POINTS:
        return (
            None,
            False,
            f"not computed: its grid would span losses up to {loss:.3g} (limit {PRV_LARGEST_LOSS:g}) in {points:.2g} "
            f"points (limit {PRV_POINTS:.0e})",
        )
    accountant = _history(PRVAccountant(), mechanism, steps)
    spent = float(accountant.get_epsilon(delta, eps_error=eps_error, delta_error=delta_error))
    reason = (
        f"the upper end of an interval about the numerically composed epsilon (eps_error {eps_error:g}, delta_error "
        "delta/1000); its proof covers removing a bucket, not adding one, and no rounding error"
    )
    if not math.isfinite(spent):
        return None, False, f"{reason}; Opacus's arithmetic overflows here ({spent})"
    epsilon = max(0.0, spent)
    if tight is None:
        return epsilon, False, f"{reason}; the tight accountant has no answer here to check it against"
    verdict = "so it is a bound" if epsilon >= tight else "so it is an estimate"
    return epsilon, epsilon >= tight, f"{reason}{compared(epsilon, tight)}, which covers both, {verdict}"


def _gdp(mechanism: BucketMechanism, steps: int, delta: float, tight: float | None) -> _Answer:
    """Bu, Dong, Long, Su 2020, by the central limit theorem of Dong, Roth, Su 2022."""
    from opacus.accountants import GaussianAccountant  # noqa: PLC0415

    try:
        epsilon = float(_history(GaussianAccountant(), mechanism, steps).get_epsilon(delta))
    except ValueError:
        return None, False, "no answer: Opacus looks for epsilon between 0 and 500, and it is not there"
    reason = (
        "a central limit approximation: the T steps are taken for one Gaussian, which is exact only as T grows "
        f"without end while q sqrt(T) stays; the error at T = {steps} is not bounded, and may have either sign"
    )
    return epsilon, False, reason + compared(epsilon, tight)


_ACCOUNTANTS = {"opacus-rdp": _rdp, "opacus-prv": _prv, "opacus-gdp": _gdp}
