"""Draws of a fixed number, with a largest number, or once in a pass: what is drawn, divided by and charged.

Modules: dpmi/privacy/samplers.py, dpmi/privacy/sampling.py, dpmi/privacy/plan.py.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch.utils.data import DataLoader, TensorDataset

from accountants import BallsInBins, BucketMechanism, FixedNumber, Ledger, TruncatedPoisson
from dpmi.privacy import (
    Account,
    BallsInBinsSampling,
    FixedNumberSampling,
    NonFiniteGradientError,
    Plan,
    PoissonSampling,
    Sampling,
    TruncatedPoissonSampling,
)
from dpmi.privacy.audit import Audit
from dpmi.privacy.noise import NoiseSource
from dpmi.privacy.samplers import POISSON, Uniform, _below, _subset

from .ranks import on_ranks
from .test_checkpoint import Run as Resumed
from .test_distributed import trained
from .test_one_draw import USERS, Run, X, Y, once
from .test_plan import plan

pytestmark = pytest.mark.filterwarnings("ignore:noise_multiplier is 0")

OTHERS: list[tuple[Sampling, float | None]] = [
    (FixedNumberSampling(3), None),
    (TruncatedPoissonSampling(2), 0.3),
    (BallsInBinsSampling(4), None),
]


def uniform(seed: int = 0) -> Uniform:
    source = NoiseSource.of(seed, secure=False, device=torch.device("cpu"))
    return lambda n: source.uniform(n).numpy()


# The draws


def counted(sampling: Sampling, rate: float | None, buckets: int, times: int) -> Counter[tuple[int, ...]]:
    numbers = uniform()
    return Counter(
        tuple(each.tolist()) for _ in range(times) for each in sampling.draws(rate, buckets, numbers)
    )


def test_every_subset_of_the_fixed_number_is_equally_likely() -> None:
    found = counted(FixedNumberSampling(2), None, 5, 20_000)
    assert set(found) == set(itertools.combinations(range(5), 2))
    assert chisquare(list(found.values())).pvalue > 1e-4


def test_a_truncated_draw_uses_every_subset_equally_often() -> None:
    found = counted(TruncatedPoissonSampling(2), 0.5, 4, 40_000)
    expected = {
        each: 0.5**4 * (1 if len(each) < 2 else 1 + 2 / 3 + 1 / 6)
        for number in range(3)
        for each in itertools.combinations(range(4), number)
    }
    assert math.isclose(sum(expected.values()), 1)
    counts = [found[each] for each in expected]
    assert sum(counts) == 40_000
    assert chisquare(counts, [40_000 * share for share in expected.values()]).pvalue > 1e-4


def test_a_limit_that_is_not_reached_changes_no_draw() -> None:
    assert counted(TruncatedPoissonSampling(6), 0.5, 6, 500) == counted(POISSON, 0.5, 6, 500)


def test_every_bucket_is_in_one_step_of_a_pass_and_each_is_equally_likely() -> None:
    sampling, numbers = BallsInBinsSampling(3), uniform()
    places: Counter[tuple[int, ...]] = Counter()
    for _ in range(9_000):
        steps = sampling.draws(None, 2, numbers)
        assert len(steps) == 3
        assert sorted(np.concatenate(steps).tolist()) == [0, 1]
        places[tuple(int(np.flatnonzero([bucket in step for step in steps])[0]) for bucket in range(2))] += 1
    assert len(places) == 9, "the two are independent of each other"
    assert chisquare(list(places.values())).pvalue > 1e-4


def test_equal_numbers_do_not_decide() -> None:
    answers = iter([np.array([0.5, 0.5, 0.1]), np.array([0.9, 0.2, 0.4])])
    found = _subset(np.array([4, 5, 6]), 1, lambda n: next(answers))
    assert found.tolist() == [5]


def test_integers_are_equally_likely_because_the_last_ones_are_drawn_again() -> None:
    most = 2.0**53 - 1
    # 2^53 = 2 modulo 3, so the two largest of the 2^53 numbers would favour 0 and 1.
    answers = iter(
        [np.array([most, 4.0, most - 1]) / 2**53, np.array([5.0, most]) / 2**53, np.array([7.0]) / 2**53]
    )
    assert _below(3, 3, lambda n: next(answers)).tolist() == [5 % 3, 4 % 3, 7 % 3]
    assert list(answers) == []


# One object for sampler, divisor and charge


@pytest.mark.parametrize(
    ("sampling", "rate", "mechanism", "divisor"),
    [
        (POISSON, 0.25, BucketMechanism(sampling_rate=0.25, noise_multiplier=1.5), 0.25),
        (FixedNumberSampling(2), None, lambda k: FixedNumber(units=k, drawn=2, noise_multiplier=1.5), None),
        (
            TruncatedPoissonSampling(2),
            0.25,
            lambda k: TruncatedPoisson(units=k, sampling_rate=0.25, most=2, noise_multiplier=1.5),
            0.25,
        ),
        (BallsInBinsSampling(4), None, BallsInBins(steps_per_pass=4, noise_multiplier=1.5), 0.25),
    ],
)
def test_a_plan_charges_and_divides_by_what_is_drawn(
    sampling: Sampling, rate: float | None, mechanism: Any, divisor: float | None
) -> None:
    made = plan(sampling=sampling, sampling_rate=rate)
    buckets = made.partition.num_buckets
    assert made.mechanism == (mechanism(buckets) if callable(mechanism) else mechanism)
    assert made.expected_buckets == (2 if divisor is None else divisor * buckets)
    assert made.rate == pytest.approx(made.expected_buckets / buckets)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sampling_rate": None}, r"sampling_rate is missing; PoissonSampling needs"),
        (
            {"sampling_rate": None, "sampling": TruncatedPoissonSampling(2)},
            "sampling_rate is missing; Truncated",
        ),
        (
            {"sampling": FixedNumberSampling(2)},
            r"sampling_rate is 0.25, which does not apply to sampling=Fixed",
        ),
        (
            {"sampling": BallsInBinsSampling(2)},
            r"sampling_rate is 0.25, which does not apply to sampling=Balls",
        ),
        ({"sampling_rate": None, "sampling": FixedNumberSampling(10**6)}, "drawn must be at most"),
        ({"sampling": "poisson"}, r"sampling must be one of dpmi.privacy's samplers.*got 'poisson'"),
        ({"sampling": BucketMechanism(sampling_rate=0.1, noise_multiplier=1)}, "sampling must be one of"),
        (
            {"sampling": TruncatedPoissonSampling(2), "canaries": 4},
            "audit is given, but its tests are for Poisson",
        ),
    ],
)
def test_contradictions_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        plan(**changed)


@pytest.mark.parametrize("kind", [FixedNumberSampling, TruncatedPoissonSampling, BallsInBinsSampling])
@pytest.mark.parametrize("wrong", [0, -1, 2.0, True, None])
def test_a_wrong_number_is_refused(kind: Any, wrong: object) -> None:
    with pytest.raises((ValueError, TypeError), match="must be"):
        kind(wrong)


def test_a_pass_has_the_steps_of_its_assignment() -> None:
    with pytest.raises(
        ValueError, match=r"steps_per_epoch is 40, but a pass of sampling=Balls.* has 5 steps"
    ):
        Run(sampling=BallsInBinsSampling(5), sampling_rate=None)
    for same in (None, 5):
        run = Run(sampling=BallsInBinsSampling(5), sampling_rate=None, steps_per_epoch=same)
        assert run.loader.draws.steps == 5
    assert (
        Run(sampling=FixedNumberSampling(2), sampling_rate=None, steps_per_epoch=None).loader.draws.steps == 5
    )


def test_an_audit_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="audit is given, but its tests are for Poisson draws"):
        Run(
            sampling=FixedNumberSampling(2), sampling_rate=None, noise_multiplier=1.0, audit=Audit(canaries=2)
        )


# What the loop sees, and what is charged


def users(records: list[int]) -> set[int]:
    return set(USERS[records].tolist())


def test_every_step_draws_the_fixed_number_and_is_charged() -> None:
    run = Run(sampling=FixedNumberSampling(3), sampling_rate=None).train(20)
    assert {len(users(records)) for records in run.steps} == {3}
    assert run.engine.ledger == Ledger().record(FixedNumber(units=10, drawn=3, noise_multiplier=0), 20)
    assert run.optimizer.expected_batch_size == 3


def test_no_step_has_more_than_the_largest_number() -> None:
    run = Run(sampling=TruncatedPoissonSampling(2), sampling_rate=0.3).train(40)
    numbers = Counter(len(users(records)) for records in run.steps)
    assert max(numbers) == 2
    assert numbers[2] > numbers[1] > 0
    (charged,) = run.engine.ledger.totals
    assert charged == TruncatedPoisson(units=10, sampling_rate=0.3, most=2, noise_multiplier=0)


@pytest.mark.parametrize("stepped", [None, False, True])
def test_every_pass_has_every_bucket_once_and_one_charge(stepped: bool | None) -> None:
    """Also if the loop is left in the middle of steps, before or after a batch, and started again."""
    run = Run(sampling=BallsInBinsSampling(7), sampling_rate=None, steps_per_epoch=None)
    run.train(21, (lambda *_: False) if stepped is None else once(lambda _: True, stepped=stepped))
    for first in (0, 7, 14):
        drawn = sorted(user for records in run.steps[first : first + 7] for user in users(records))
        assert drawn == list(range(10))
    assert any(not records for records in run.steps), "otherwise empty steps were not tested"
    assert run.engine.ledger == Ledger().record(BallsInBins(steps_per_pass=7, noise_multiplier=0), 3)
    assert run.engine.ledger.steps == 21


def test_a_loop_gets_the_rest_of_a_pass_and_then_a_new_one() -> None:
    run = Run(sampling=BallsInBinsSampling(7), sampling_rate=None, steps_per_epoch=None).train(3)
    for expected in (7, 14):
        for batch in run.loader:
            run.step(*batch)
        assert len(run.steps) == expected


def test_a_pass_is_charged_whole_with_its_first_released_step_and_not_before() -> None:
    run = Run(sampling=BallsInBinsSampling(2), sampling_rate=None, steps_per_epoch=None)
    next(iter(run.loader))
    assert run.engine.ledger.steps == 0, "drawn, and nothing of it released"
    run.train(1)
    assert run.engine.ledger.steps == 2
    run.train(2)
    assert run.engine.ledger.steps == 2
    run.train(3)
    assert run.engine.ledger.steps == 4


def test_a_crash_while_the_first_step_is_released_is_charged_once() -> None:
    run = Run(sampling=BallsInBinsSampling(2), sampling_rate=None, steps_per_epoch=None)

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = run.optimizer.original_optimizer.register_step_pre_hook(crash)
    with pytest.raises(KeyboardInterrupt):
        run.train(1)
    assert run.engine.ledger.steps == 2
    handle.remove()
    run.taken = []
    for batch in run.loader:
        run.step(*batch)
    assert len(run.steps) == 1, "what was charged is not drawn again; the rest of the pass is"
    assert run.engine.ledger.steps == 2


def test_a_step_that_is_not_released_is_not_charged_and_keeps_its_pass() -> None:
    run = Run(sampling=BallsInBinsSampling(2), sampling_rate=None, steps_per_epoch=None, noise_multiplier=1.0)
    first = next(iter(run.loader))
    with pytest.raises(NonFiniteGradientError):
        for x, y, index in run.loader:
            run.step(x * math.inf, y, index)
    assert run.engine.ledger.steps == 0
    assert torch.equal(next(iter(run.loader))[2], first[2])


def test_a_bucket_with_some_records_uses_others_in_every_pass() -> None:
    run = Run(
        sampling=BallsInBinsSampling(2),
        sampling_rate=None,
        steps_per_epoch=None,
        max_records_per_bucket=2,
    ).train(8)
    assert all(len(records) == 2 * len(users(records)) for records in run.steps)
    assert len({tuple(sorted(records)) for records in run.steps}) > 4


def test_a_pass_that_is_left_for_another_run_stays_charged_whole() -> None:
    run = Run(sampling=BallsInBinsSampling(4), sampling_rate=None, steps_per_epoch=None).train(2)
    model = torch.nn.Linear(4, 3)
    module, optimizer, loader = run.engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(X, Y)),
        partition=run.engine.plan.partition,
        sampling_rate=1.0,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        steps_per_epoch=3,
    )
    for x, y in loader:
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    assert [times for _, times in run.engine.ledger.runs] == [1, 3]
    assert run.engine.ledger.steps == 7
    assert Account.from_json(run.engine.account.to_json()).ledger == run.engine.ledger


@pytest.mark.parametrize(("sampling", "rate"), OTHERS)
def test_secure_draws_work(sampling: Sampling, rate: float | None) -> None:
    run = Run(
        sampling=sampling,
        sampling_rate=rate,
        steps_per_epoch=None,
        seed=None,
        secure_mode=True,
        noise_multiplier=1.0,
    ).train(8)
    assert run.engine.ledger.steps == 8
    assert run.engine.guarantee(delta=1e-3).is_guarantee
    assert "Sampling" in run.engine.statement(delta=1e-3).markdown()


def test_the_epsilon_of_a_run_is_that_of_its_sampler() -> None:
    found = {}
    for sampling, rate in [(POISSON, 0.3), *OTHERS]:
        run = Run(
            sampling=sampling, sampling_rate=rate, steps_per_epoch=None, seed=None, noise_multiplier=3.0
        )
        run.train(8)
        found[type(sampling)] = run.engine.guarantee(delta=1e-3).epsilon
    assert found[PoissonSampling] < found[FixedNumberSampling]


# Checkpoints


@pytest.mark.parametrize(("sampling", "rate"), OTHERS)
@pytest.mark.parametrize("stop_after", [2, 8])
def test_a_resumed_run_is_the_uninterrupted_run(
    sampling: Sampling, rate: float | None, stop_after: int, tmp_path: Path
) -> None:
    """In the middle of a pass, the checkpoint has the rest of its assignment."""
    options: dict[str, Any] = {"sampling": sampling, "sampling_rate": rate, "steps_per_epoch": None}

    def go_on(run: Resumed, steps: int) -> Resumed:
        while run.optimizer.released_steps < steps:
            for x, y in run.loader:
                run.optimizer.zero_grad()
                torch.nn.functional.cross_entropy(run.module(x), y).backward()
                run.optimizer.step()
                if run.optimizer.released_steps >= steps:
                    break
        return run

    whole = go_on(Resumed(**options), 14)
    stopped = go_on(Resumed(**options), stop_after)
    stopped.engine.save_checkpoint(tmp_path / "c", schedule=stopped.schedule)
    resumed = Resumed(**options).resume(tmp_path / "c")
    assert resumed.engine.ledger == stopped.engine.ledger
    go_on(resumed, 14)
    assert torch.equal(resumed.weights, whole.weights)
    assert resumed.engine.ledger == whole.engine.ledger


def test_a_checkpoint_of_another_sampler_is_refused(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "poisson": {"sampling_rate": 0.3},
        "truncated": {"sampling_rate": 0.3, "sampling": TruncatedPoissonSampling(2)},
        "truncated at 3": {"sampling_rate": 0.3, "sampling": TruncatedPoissonSampling(3)},
        "fixed": {"sampling_rate": None, "sampling": FixedNumberSampling(3)},
    }
    for name, its in options.items():
        run = Resumed(**its)
        run.engine.save_checkpoint(tmp_path / name, schedule=run.schedule)
    for ours, theirs in itertools.permutations(options, 2):
        with pytest.raises(ValueError, match=r"from another run: (sampling|sampling_rate) is"):
            Resumed(**options[ours]).resume(tmp_path / theirs)


# Several processes


@pytest.mark.parametrize(
    ("sampling", "rate"),
    [(FixedNumberSampling(2), None), (TruncatedPoissonSampling(2), 0.6), (BallsInBinsSampling(3), None)],
)
def test_two_ranks_train_the_model_that_one_process_does(sampling: Sampling, rate: float | None) -> None:
    options: dict[str, Any] = {
        "grad_sample_mode": "stream",
        "max_physical_batch_size": 9,
        "sampling": sampling,
        "sampling_rate": rate,
        "noise_multiplier": 1.0,
        "seed": 3,
    }
    expected, drawn, billed = trained(0, "mean", options)
    one, two = on_ranks(trained, "mean", options)
    assert np.array_equal(one[0], two[0])
    np.testing.assert_allclose(one[0], expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
    assert [sorted(a + b) for a, b in zip(one[1], two[1], strict=True)] == drawn
    assert one[2] == two[2] == billed


def test_plans_are_equal_only_with_equal_samplers() -> None:
    assert isinstance(plan(), Plan)
    assert FixedNumberSampling(2) != FixedNumberSampling(3)
    assert PoissonSampling() == POISSON
    assert str(BallsInBinsSampling(4)) == "BallsInBinsSampling(steps_per_pass=4)"
