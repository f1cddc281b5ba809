"""The results of Opacus's accountants for the same run, and which of them are upper bounds.

All three cover the removal of a bucket only: N(0, s^2) against (1-q) N(0, s^2) + q N(1, s^2). Opacus is imported when
the rows are computed, because it imports torch, which takes seconds.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

from accountants.guarantee import Adjacency
from accountants.ledger import Ledger
from accountants.mechanism import BucketMechanism, poisson

PRV_POINTS = 5e6
"""Largest grid given to PRV; it takes seconds and about a gigabyte."""

PRV_LARGEST_LOSS = 700.0
"""Largest privacy loss on PRV's grid. PRV exponentiates the losses, and float64 overflows above e^709."""

NOT_FOR_REPLACEMENT = {
    "opacus-rdp": (
        "does not apply: Opacus computes the moments of one bucket removed, at distance S; replacing a bucket moves "
        "the sum by up to 2 S. `lemma3`, replace has the same moments at half the noise"
    ),
    "opacus-prv": (
        "does not apply: Opacus has only the pair of one bucket removed; `tight`, replace composes the pair of a "
        "replacement"
    ),
    "opacus-gdp": (
        "does not apply: its mu = q sqrt(T (e^(1/sigma^2) - 1)) is derived from the pair of one bucket removed; Opacus "
        "has no such formula for a replacement"
    ),
}


class Row(NamedTuple):
    """The part of an `Explanation` that depends on the accountant; the rest is the request."""

    accountant: str
    adjacency: Adjacency
    epsilon: float | None
    is_bound: bool
    reason: str


def compared(epsilon: float, tight: float | None) -> str:
    """Return the distance of an epsilon from the tight one, as the end of a sentence; empty if `tight` is None."""
    if tight is None:
        return ""
    if epsilon == tight:
        return "; the tight epsilon here is the same"
    side = "below" if epsilon < tight else "above"
    return f"; {abs(epsilon - tight):.3g} {side} the tight epsilon here"


def trivial(ledger: Ledger) -> tuple[float, str] | None:
    """Return epsilon and the reason if they follow without an accountant, else None."""
    if not ledger.steps:
        return 0.0, "no step was taken, so nothing was released"
    if ledger.noiseless:
        return (
            math.inf,
            "noise_multiplier is 0: the steps are released without noise, so no epsilon bounds them",
        )
    return None


def opacus_rows(ledger: Ledger, *, delta: float, tight: float | None) -> list[Row]:
    """Return one row for each of Opacus's accountants and each adjacency. Arguments are not checked.

    Args:
        ledger: the steps.
        delta: in (0, 1).
        tight: the tight epsilon under add_remove; None if the tight accountant cannot compute the run.
    """
    known = trivial(ledger)
    rows = []
    for name, answer in _ACCOUNTANTS.items():
        rows.append(Row(name, "replace", None, False, NOT_FOR_REPLACEMENT[name]))
        if known is not None:
            epsilon, reason = known
            rows.append(Row(name, "add_remove", epsilon, name != "opacus-gdp", reason))
            continue
        # The reasons already say what Opacus warns about on stderr.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                rows.append(Row(name, "add_remove", *answer(ledger, delta, tight)))
            except (ImportError, ValueError, RuntimeError, ArithmeticError) as error:
                why = f"not computed: Opacus raised {type(error).__name__}: {error}"
                rows.append(Row(name, "add_remove", None, False, why))
    return rows


_Answer = tuple[float | None, bool, str]


def _poisson(ledger: Ledger) -> dict[BucketMechanism, int]:
    return {poisson(mechanism, "Opacus"): steps for mechanism, steps in ledger.totals.items()}


def _history(accountant: Any, ledger: Ledger) -> Any:
    accountant.history = [
        (step.noise_multiplier, step.sampling_rate, steps) for step, steps in _poisson(ledger).items()
    ]
    return accountant


def _rdp(ledger: Ledger, delta: float, tight: float | None) -> _Answer:
    """Return Opacus's RDP epsilon; removal has the larger moments (Mironov, Talwar, Zhang 2019, Thm 5)."""
    from opacus.accountants import RDPAccountant  # noqa: PLC0415

    accountant = _history(RDPAccountant(), ledger)
    spent, order = accountant.get_privacy_spent(delta=delta)
    epsilon = max(0.0, float(spent))
    orders = accountant.DEFAULT_ALPHAS
    reason = (
        "the same exact moments as `lemma3`, at each order the larger of adding and removing, but only at "
        f"{len(orders)} fixed orders (best here: {order:g})"
    )
    if order in (orders[0], orders[-1]):
        reason += ", an end of Opacus's range: another order would give a smaller epsilon"
    return epsilon, True, reason + compared(epsilon, tight)


def _prv(ledger: Ledger, delta: float, tight: float | None) -> _Answer:
    """Return the upper end of Opacus's PRV interval (Gopi, Lee, Wutschitz 2021), which `get_epsilon` returns.

    The proof covers removal in exact arithmetic. Adding has to be composed separately (Lebeda, Regehr, Kamath, Steinke
    2025), and neither error term covers the rounding errors of the Fourier transform: without sampling, at noise
    multiplier 20, 10,000 steps and delta 1e-12, Opacus returns 47.008, and the exact value is 47.049. So the result
    counts as a bound only if it is not below a proven bound.
    """
    from opacus.accountants import PRVAccountant  # noqa: PLC0415
    from opacus.accountants.analysis.prv import (  # noqa: PLC0415
        PoissonSubsampledGaussianPRV,
        compute_safe_domain_size,
    )

    # Opacus's defaults. The size of its grid is computed first, because a too large one exhausts the memory.
    eps_error, delta_error = 0.01, delta / 1000
    prvs = [
        PoissonSubsampledGaussianPRV(step.sampling_rate, step.noise_multiplier) for step in _poisson(ledger)
    ]
    steps = list(ledger.totals.values())
    loss = float(compute_safe_domain_size(prvs, steps, eps_error=eps_error, delta_error=delta_error))
    points = 2 * loss * math.sqrt(ledger.steps * math.log(12 / delta_error) / 2) / eps_error
    if loss > PRV_LARGEST_LOSS or points > PRV_POINTS:
        return (
            None,
            False,
            f"not computed: its grid would span losses up to {loss:.3g} (limit {PRV_LARGEST_LOSS:g}) in {points:.2g} "
            f"points (limit {PRV_POINTS:.0e})",
        )
    accountant = _history(PRVAccountant(), ledger)
    spent = float(accountant.get_epsilon(delta, eps_error=eps_error, delta_error=delta_error))
    reason = (
        f"the upper end of an interval about the numerically composed epsilon (eps_error {eps_error:g}, delta_error "
        "delta/1000); its proof covers removing a bucket, but neither adding one nor rounding errors"
    )
    if not math.isfinite(spent):
        return None, False, f"{reason}; Opacus's arithmetic overflows here ({spent})"
    epsilon = max(0.0, spent)
    if tight is None:
        return epsilon, False, f"{reason}; not checked, because the tight accountant cannot compute this run"
    verdict = "so it is a bound" if epsilon >= tight else "so it is an estimate"
    return epsilon, epsilon >= tight, f"{reason}{compared(epsilon, tight)}, which covers both, {verdict}"


def _gdp(ledger: Ledger, delta: float, tight: float | None) -> _Answer:
    """Return Opacus's GDP epsilon (Bu, Dong, Long, Su 2020; central limit theorem of Dong, Roth, Su 2022)."""
    from opacus.accountants import GaussianAccountant  # noqa: PLC0415

    if len(ledger.totals) > 1:
        return None, False, "not computed: its formula holds for one noise multiplier and one sampling rate"
    try:
        epsilon = float(_history(GaussianAccountant(), ledger).get_epsilon(delta))
    except ValueError:
        return (
            None,
            False,
            "not computed: Opacus searches epsilon between 0 and 500, and this run's is outside",
        )
    reason = (
        "a central limit approximation: the T steps are treated as one Gaussian, which is exact only in the limit of "
        f"large T at constant q sqrt(T); the error at T = {ledger.steps} has no known bound and may have either sign"
    )
    return epsilon, False, reason + compared(epsilon, tight)


_ACCOUNTANTS = {"opacus-rdp": _rdp, "opacus-prv": _prv, "opacus-gdp": _gdp}
