import pytest

from accountants import BucketMechanism, Guarantee, Ledger, epsilon
from accountants.guarantee import Adjacency


def closed_form(
    q: float, sigma: float, steps: int, delta: float, adjacency: Adjacency = "replace"
) -> Guarantee:
    return epsilon(
        sampling_rate=q,
        noise_multiplier=sigma,
        steps=steps,
        delta=delta,
        unit="class",
        adjacency=adjacency,
        accountant="theorem1",
    )


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "delta", "value"),
    [
        (0.2, 1.6, 200, 1e-3, 18.585),
        (0.2, 3.0, 137, 1e-3, 8.203),
        (0.2, 3.65, 148, 1e-3, 7.008),
        (0.33, 0.8, 307, 1e-2, 62.041),
        (0.33, 1.6, 524, 1e-2, 40.527),
        (0.01, 1.0, 1000, 1e-5, 4.292),
        (0.1, 2.0, 1000, 1e-5, 21.460),
        (0.33, 1.2, 372, 1e-2, 45.5),
    ],
)
def test_known_values_and_half_of_them_by_remark_1(
    q: float, sigma: float, steps: int, delta: float, value: float
) -> None:
    assert closed_form(q, sigma, steps, delta).epsilon == pytest.approx(value, abs=1e-3, rel=1e-3)
    assert closed_form(q, sigma, steps, delta).epsilon == pytest.approx(
        2 * closed_form(q, sigma, steps, delta, "add_remove").epsilon
    )


def test_it_is_below_the_truth_with_every_condition_true_and_never_a_guarantee() -> None:
    paper = closed_form(0.02, 1.0, 10_000, 0.01)
    truth = epsilon(sampling_rate=0.02, noise_multiplier=1.0, steps=10_000, delta=0.01, unit="class")
    assert [condition.holds for condition in paper.conditions] == [True, True, True]
    assert paper.epsilon == pytest.approx(17.17, abs=0.005)
    assert truth.epsilon == pytest.approx(17.98, abs=0.005)
    assert not paper.is_guarantee
    assert "e^x - 1 <= x" in paper.caveats[0]


def test_the_papers_experiments_lie_outside_its_conditions() -> None:
    conditions = closed_form(0.33, 0.8, 307, 1e-2).conditions
    assert [condition.statement for condition in conditions] == [
        "q < 1/(16 sigma)",
        "kappa <= sigma^2 ln(1/(q sigma))",
        "q < sqrt(epsilon/(64 sqrt(T ln(1/delta))))",
    ]
    assert [condition.holds for condition in conditions] == [False, True, False]
    assert conditions[0].detail == "q = 0.33, 1/(16 sigma) = 0.07812"


def test_remark_1_states_its_own_constant() -> None:
    assert "32 sqrt" in closed_form(0.02, 1.0, 100, 1e-2, "add_remove").conditions[2].statement


@pytest.mark.parametrize(("steps", "holds"), [(2, False), (20, True)])
def test_the_order_of_the_proof_is_checked(steps: int, holds: bool) -> None:
    """Kappa = sigma sqrt(ln(1/delta)) / (2 q sqrt(T)): few steps ask for an order that is too high."""
    q, sigma, delta = 0.05, 1.0, 0.7
    assert closed_form(q, sigma, steps, delta).conditions[1].holds is holds


def test_a_closed_form_for_one_mechanism_refuses_two() -> None:
    ledger = Ledger()
    for sigma in (1.0, 2.0):
        ledger = ledger.record(BucketMechanism(sampling_rate=0.1, noise_multiplier=sigma), 10)
    with pytest.raises(ValueError, match=r"2 different mechanisms: use accountant='tight'"):
        ledger.guarantee(delta=1e-3, unit="class", accountant="theorem1")
