"""The moments accountant of the class-DP paper, with moments computed exactly instead of bounded.

Zhang et al. 2020, Lemma 3, bounds a step by the pair mu = (1-q) N(0, s^2) + q N(2, s^2) against mu_0 = N(0, s^2): two
bucket contributions of norm 1 are at most 2 apart. The log-moment of the pair, of order kappa, is

    alpha(kappa) = log E_{z ~ mu_0} [ (mu(z) / mu_0(z))^(kappa + 1) ],

the larger of the lemma's E_1 and E_2 (Mironov, Talwar, Zhang 2019, Thm 5). The moments of the steps are summed (Lemma
1). Every order gives a valid epsilon, and the smallest one is returned. When a bucket is added or removed, the two
means are 1 apart, which is the same pair at twice the noise.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from accountants import checks
from accountants.guarantee import Adjacency, Bound
from accountants.mechanism import Totals, poisson

DOMINATION_CHECKED = (
    "that the Lemma-3 moment bounds the moment of replacing a bucket was checked numerically "
    "(q in [.001, .9], sigma in [.5, 8], kappa in [.1, 32]), not proved"
)

SMALLEST_ORDER, LARGEST_ORDER = 1e-6, 1e4
"""Search range of the order. Any order gives a valid epsilon. The best order is small for an epsilon in the thousands,
and large for an epsilon near zero."""

SEPARATED = 40.0
"""Distance in standard deviations from which the overlap of the two Gaussians is neglected; it is below
e^(-SEPARATED^2 / 8)."""


def bound(totals: Totals, *, delta: float, adjacency: Adjacency) -> Bound:
    """Return the smallest epsilon over real orders, by the tighter of the two conversions.

    The tighter one is `rdp_epsilon`, which is below `lemma2_epsilon` at every order.
    """
    # In `log_moment` the means are 2 apart; a distance of 1 is the same pair at twice the noise.
    rescale = 1.0 if adjacency == "replace" else 2.0
    runs = [(poisson(mechanism, "lemma3"), steps) for mechanism, steps in totals.items()]

    def epsilon_at(kappa: float) -> float:
        total = sum(
            steps
            * log_moment(
                kappa,
                sampling_rate=mechanism.sampling_rate,
                noise_multiplier=rescale * mechanism.noise_multiplier,
            )
            for mechanism, steps in runs
        )
        return rdp_epsilon(total, kappa, delta=delta)

    # A grid needs no assumption on the shape of epsilon(kappa). Its ratio is 1.25 everywhere and 1.01 near the best.
    coarse = np.geomspace(SMALLEST_ORDER, LARGEST_ORDER, 104)
    best = min(map(float, coarse), key=epsilon_at)
    fine = best * np.geomspace(1 / 1.25, 1.25, 45)
    caveats = (DOMINATION_CHECKED,) if adjacency == "replace" else ()
    return Bound(min(epsilon_at(float(kappa)) for kappa in fine), caveats=caveats)


def log_moment(kappa: float, *, sampling_rate: float, noise_multiplier: float) -> float:
    """Return alpha(kappa) >= 0 of one step of the Lemma-3 pair (means 2 apart), to about 1e-13.

    Integer orders use the binomial sum, whose terms have a closed form; other orders use numerical integration.

    Args:
        kappa: order > 0, real.
        sampling_rate: q in (0, 1].
        noise_multiplier: sigma = std / max_grad_norm >= 0; 0 gives infinity.

    Raises:
        TypeError, ValueError: an argument is not a number or out of range.
    """
    kappa = checks.real("kappa", kappa)
    if kappa <= 0:
        raise ValueError(f"kappa must be above 0, got {kappa}")
    q = checks.sampling_rate(sampling_rate)
    sigma = checks.noise_multiplier(noise_multiplier)
    if sigma == 0:
        return math.inf
    power, distance = kappa + 1, 2 / sigma
    without_sampling = power * kappa * distance * distance / 2
    # If that overflows, the sums below would multiply zero by infinity.
    if q == 1 or math.isinf(without_sampling):
        return without_sampling
    if kappa.is_integer():
        log_expectation = _binomial_sum(int(power), q, distance)
    elif distance >= SEPARATED:
        log_expectation = float(np.logaddexp(power * math.log1p(-q), power * math.log(q) + without_sampling))
    else:
        log_expectation = _integral(power, q, distance)
    # A moment of a likelihood ratio is at least 1; rounding may put it slightly below.
    return max(0.0, log_expectation)


def lemma2_epsilon(total_log_moment: float, kappa: float, *, delta: float) -> float:
    """Return epsilon at one order by Zhang et al. 2020, Lemma 2: (total_log_moment - ln delta) / kappa."""
    return max(0.0, (total_log_moment - math.log(delta)) / kappa)


def rdp_epsilon(total_log_moment: float, kappa: float, *, delta: float) -> float:
    """Return epsilon at one order by the conversion from Renyi DP of Balle et al. 2020, Thm 21.

    With a = kappa + 1 and RDP(a) = total_log_moment / kappa, epsilon is
    RDP(a) + ln((a - 1) / a) - (ln delta + ln a) / (a - 1), which is Lemma 2 minus two positive terms.
    """
    log_order = math.log1p(kappa)
    return max(0.0, (total_log_moment - math.log(delta) - log_order) / kappa + math.log(kappa) - log_order)


def _binomial_sum(power: int, q: float, distance: float) -> float:
    """Return log E[(mu / mu_0)^power] for integer power.

    It is the log of sum_k C(power, k) (1-q)^(power-k) q^k e^{(k^2 - k) distance^2 / 2}.
    """
    k = np.arange(power + 1, dtype=np.float64)
    log_factorial = np.array([math.lgamma(i + 1) for i in range(power + 1)])
    return _log_sum_exp(
        log_factorial[-1]
        - log_factorial
        - log_factorial[::-1]
        + (power - k) * math.log1p(-q)
        + k * math.log(q)
        + (k * k - k) * (distance * distance / 2)
    )


def _integral(power: float, q: float, distance: float) -> float:
    """Return log E[(mu / mu_0)^power] for real power, by the trapezoidal rule in u = z / sigma.

    With A = 1-q and B(u) = q e^{distance u - distance^2 / 2}, the integrand phi(u) (A + B)^power is at most
    2^(power-1) phi(u) (A^power + B^power), and its integral is at least that of phi(u) (A^power + B^power). The latter
    is two Gaussian curves, centred at 0 and at power * distance. Windows of this half width around the centres omit
    less than 1e-16 of the integral. The integrand is analytic for |Im u| < pi / distance, so the trapezoidal rule
    converges geometrically; this step size leaves an error below 1e-17.
    """
    half_width = math.sqrt(2 * (37 + power * math.log(2)))
    step = min(0.25, 0.45 / distance)
    window = np.arange(-math.ceil(half_width / step), math.ceil(half_width / step) + 1)
    u = step * np.union1d(window, window + round(power * distance / step))
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + distance * u - distance * distance / 2)
    return _log_sum_exp(power * log_ratio - u * u / 2) + math.log(step / math.sqrt(2 * math.pi))


def _log_sum_exp(terms: npt.NDArray[np.float64]) -> float:
    largest = float(np.max(terms))
    return largest + math.log(float(np.sum(np.exp(terms - largest))))
