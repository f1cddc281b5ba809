"""The rows of Opacus's accountants: what each computes, and whether it is a bound."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from accountants import lemma3
from accountants.explanation import explain

from .test_explanation import HARDLY_ANY_NOISE, PAPER, SMALL_RATE, Run, rows, value


def removal(q: float, sigma: float, steps: int, *, pessimistic: bool, interval: float) -> Any:
    """The privacy loss distribution of one bucket removed, rounded up or down."""
    from dp_accounting.pld import privacy_loss_distribution

    logging.disable(logging.WARNING)  # that the lower bound needs another discretisation
    step = privacy_loss_distribution.from_gaussian_mechanism(
        sigma, sampling_prob=q, pessimistic_estimate=pessimistic, value_discretization_interval=interval
    )
    logging.disable(logging.NOTSET)
    return step.self_compose(steps)


@pytest.mark.parametrize("accountant", ["opacus-rdp", "opacus-prv", "opacus-gdp"])
def test_opacus_has_nothing_to_say_of_a_replacement(accountant: str) -> None:
    row = rows(PAPER)[accountant, "replace"]
    assert (row.epsilon, row.is_bound, row.to_dict()["epsilon"]) == (None, False, None)
    assert row.reason.startswith("does not apply: ")
    assert "removed" in row.reason


@pytest.mark.parametrize(("q", "sigma"), [(0.2, 1.6), (0.01, 1.0), (0.9, 3.0)])
def test_opacus_rdp_is_lemma3s_moments_at_twice_the_noise(q: float, sigma: float) -> None:
    from opacus.accountants import RDPAccountant
    from opacus.accountants.analysis.rdp import compute_rdp

    for order in RDPAccountant.DEFAULT_ALPHAS:
        theirs = float(compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=float(order)))
        ours = lemma3.log_moment(order - 1, sampling_rate=q, noise_multiplier=2 * sigma) / (order - 1)
        assert theirs == pytest.approx(ours, rel=1e-7)


@pytest.mark.parametrize("run", [PAPER, SMALL_RATE])
def test_opacus_rdp_is_a_looser_bound(run: Run) -> None:
    rdp, moments = rows(run)["opacus-rdp", "add_remove"], rows(run)["lemma3", "add_remove"]
    assert rdp.is_bound
    assert value(moments) * (1 - 1e-3) <= value(rdp) <= value(moments) * 1.01
    assert "151 fixed orders" in rdp.reason


def test_the_end_of_opacus_range_of_orders_is_said() -> None:
    row = rows(HARDLY_ANY_NOISE)["opacus-rdp", "add_remove"]
    assert "(best here: 1.1), an end of Opacus's range" in row.reason


@pytest.mark.parametrize("run", [PAPER, SMALL_RATE])
def test_opacus_prv_is_the_upper_end_of_its_interval(run: Run) -> None:
    prv, tight = rows(run)["opacus-prv", "add_remove"], rows(run)["tight", "add_remove"]
    assert prv.is_bound
    assert not prv.is_smallest
    assert value(prv) == pytest.approx(value(tight) + 0.01, abs=2e-3)
    assert prv.reason.endswith("above the tight epsilon here, which covers both, so it is a bound")


def test_opacus_prv_knows_removal_only() -> None:
    """Removing: losses from ln(1-q) up. Adding: losses up to -ln(1-q), which its distribution exceeds."""
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV

    q, sigma = 0.2, 1.6
    losses = PoissonSubsampledGaussianPRV(q, sigma)
    end = math.log1p(-q)
    assert float(losses.cdf(end - 1e-9)) == 0
    # Mass of the mixture beyond z, where (1-q) + q e^((2z - 1) / (2 s^2)) = 1 / (1-q).
    z = sigma**2 * math.log((math.exp(-end) - 1 + q) / q) + 0.5
    beyond = (1 - q) * norm.sf(z, 0, sigma) + q * norm.sf(z, 1, sigma)
    assert 1 - float(losses.cdf(-end)) == pytest.approx(beyond, rel=1e-9)
    assert beyond > 0.07


@pytest.mark.slow
def test_opacus_prv_that_rounding_may_put_below_the_exact_value_is_not_taken_for_a_bound() -> None:
    """Without sampling the run is one Gaussian with shift sqrt(T) / sigma = 5, whose delta is a closed form."""
    found = explain(sampling_rate=1.0, noise_multiplier=20.0, steps=10_000, delta=1e-12, unit="class")
    prv = next(row for row in found if (row.accountant, row.adjacency) == ("opacus-prv", "add_remove"))

    def excess(eps: float) -> float:
        # Balle, Wang 2018, Thm 8
        return float(norm.cdf(2.5 - eps / 5) - math.exp(eps) * norm.cdf(-2.5 - eps / 5)) - 1e-12

    exact = float(brentq(excess, 0, 100))
    assert exact == pytest.approx(47.049, abs=1e-3)
    # Rounding, which differs from machine to machine, made it 0.04 and 0.25 too small.
    assert value(prv) == pytest.approx(exact, abs=1.0)
    assert not prv.is_bound
    assert "nor rounding errors" in prv.reason


@pytest.mark.parametrize("run", [PAPER, SMALL_RATE, (0.004, 0.8, 3000, 1e-5)])
def test_opacus_gdp_is_below_a_lower_bound_on_the_truth(run: Run) -> None:
    q, sigma, steps, delta = run
    gdp = rows(run)["opacus-gdp", "add_remove"]
    truth_at_least = removal(q, sigma, steps, pessimistic=False, interval=1e-4).get_epsilon_for_delta(delta)
    assert truth_at_least <= value(rows(run)["tight", "add_remove"])
    assert value(gdp) < truth_at_least - 0.05
    assert not gdp.is_bound
    assert f"T = {steps}" in gdp.reason
    short = value(rows(run)["tight", "add_remove"]) - value(gdp)
    assert gdp.reason.endswith(f"; {short:.3g} below the tight epsilon here")


def test_opacus_gdp_is_no_bound_either_where_it_is_above() -> None:
    gdp = rows((0.33, 0.8, 307, 1e-2))["opacus-gdp", "add_remove"]
    # The tight epsilon is 56.32.
    assert value(gdp) > 80
    assert not gdp.is_bound
    assert gdp.reason.endswith("above the tight epsilon here")
