"""make_private_with_epsilon: the noise that a target allows, and a training that ends where the target does.

Modules: dpmi/privacy/engine.py, dpmi/privacy/settings.py, dpmi/privacy/target.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from accountants import Adjacency
from accountants.mechanism import steps_of
from accountants.recommender import recommend
from dpmi.privacy import (
    BallsInBinsSampling,
    FixedNumberSampling,
    Partition,
    PrivacyEngine,
    Sampling,
    TruncatedPoissonSampling,
)

N = 24
X = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 6


def wrap(engine: PrivacyEngine, **options: Any) -> tuple[Any, ...]:
    model = nn.Linear(4, 6)
    arguments: dict[str, Any] = {
        "module": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "data_loader": DataLoader(TensorDataset(X, Y), batch_size=8),
        "partition": Partition.by_class(Y.numpy()),
        "sampling_rate": 0.5,
        "steps": 12,
        "target_epsilon": 3.0,
        "target_delta": 1e-3,
        "max_grad_norm": 1.0,
        "steps_per_epoch": 6,
        **options,
    }
    return engine.make_private_with_epsilon(**arguments)


def epoch(module: nn.Module, optimizer: Any, loader: Any) -> None:
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
def test_the_training_ends_just_below_the_target(adjacency: Adjacency) -> None:
    engine = PrivacyEngine()
    module, optimizer, loader = wrap(engine, adjacency=adjacency)
    epoch(module, optimizer, loader)
    assert engine.guarantee(1e-3, adjacency=adjacency).epsilon < 3.0 * 0.9
    epoch(module, optimizer, loader)
    spent = engine.guarantee(1e-3, adjacency=adjacency).epsilon
    assert 3.0 * 0.995 < spent <= 3.0
    assert engine.ledger.steps == 12
    assert engine.plan.mechanism.noise_multiplier == optimizer.noise_multiplier


@pytest.mark.parametrize("adjacency", ["replace", "add_remove"])
def test_the_target_is_that_of_a_unit_of_several_buckets(adjacency: Adjacency) -> None:
    engine, one = PrivacyEngine(), PrivacyEngine()
    partition = replace(Partition.by_class(Y.numpy()), unit="user", buckets_per_unit=2)
    module, optimizer, loader = wrap(engine, adjacency=adjacency, partition=partition)
    for _ in range(2):
        epoch(module, optimizer, loader)
    found = engine.guarantee(1e-3, adjacency=adjacency)
    assert 3.0 * 0.995 < found.epsilon <= 3.0
    assert "for every user that owns at most 2 of the separately sampled buckets" in found.caveats
    _, ordinary, _ = wrap(one, adjacency=adjacency)
    assert 1.4 * ordinary.noise_multiplier < optimizer.noise_multiplier < 2.1 * ordinary.noise_multiplier


def test_the_step_after_the_last_one_releases_nothing_and_bills_nothing() -> None:
    engine = PrivacyEngine()
    module, optimizer, loader = wrap(engine, sampling_rate=1.0)
    for _ in range(2):
        epoch(module, optimizer, loader)
    before = [p.detach().clone() for p in module.parameters()]
    with pytest.raises(RuntimeError, match=r"all 12 steps that target_epsilon allows were taken"):
        epoch(module, optimizer, loader)
    assert engine.ledger.steps == 12
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_an_empty_draw_is_a_step_of_the_target_too() -> None:
    engine = PrivacyEngine()
    _, _, loader = wrap(engine, sampling_rate=1e-4, target_epsilon=1e-3, target_delta=1e-6, steps=3, seed=1)
    with pytest.raises(RuntimeError, match="all 3 steps"):
        for _ in range(100):
            for _batch in loader:
                pytest.fail("a draw at this rate is empty")
    assert engine.ledger.steps == 3


def test_a_used_engine_is_refused_either_way() -> None:
    engine = PrivacyEngine()
    wrap(engine)
    with pytest.raises(ValueError, match=r"target_epsilon is 3.0, .* was used before"):
        wrap(engine)
    model = nn.Linear(4, 6)
    with pytest.raises(ValueError, match="enforces the target of make_private_with_epsilon"):
        engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y), batch_size=8),
            partition=Partition.by_class(Y.numpy()),
            sampling_rate=0.5,
            noise_multiplier=0.1,
            max_grad_norm=1.0,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_epsilon": 0.0}, "target_epsilon must be above 0, got 0.0"),
        ({"target_epsilon": float("nan")}, "target_epsilon must be finite, got nan"),
        ({"target_delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sampling_rate": 1.5}, r"sampling_rate must be in \(0, 1\], got 1.5"),
        ({"max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(PrivacyEngine(), **options)


def test_a_delta_too_large_for_the_number_of_buckets_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="not below 1/K with K = 6 buckets"):
        wrap(PrivacyEngine(), target_delta=0.2)


class TestRecommended:
    """Settings of the recommender, taken as they are."""

    @staticmethod
    def wrapped(units: int, **options: Any) -> tuple[PrivacyEngine, Any, Any, Any]:
        torch.default_generator.manual_seed(0)
        head = nn.Linear(6, 3, bias=False)
        chosen = recommend(units=units, records_per_unit=1, classes=3, target_epsilon=1.0, delta=1e-3)
        engine = PrivacyEngine()
        module, optimizer, loader = engine.make_private_with_epsilon(
            module=head,
            optimizer=torch.optim.SGD(head.parameters(), lr=chosen.learning_rate),
            data_loader=DataLoader(TensorDataset(torch.randn(40, 6), torch.randint(3, (40,)))),
            recommended=chosen,
            **{"partition": Partition.by_record(40), **options},
        )
        return engine, module, optimizer, loader

    def test_one_pass_is_the_whole_training_and_no_step_more(self) -> None:
        engine, module, optimizer, loader = self.wrapped(40)
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(module(x), y).backward()
            optimizer.step()
        chosen = recommend(units=40, records_per_unit=1, classes=3, target_epsilon=1.0, delta=1e-3)
        assert engine.ledger.steps == chosen.steps
        assert engine.plan.max_grad_norm == chosen.max_grad_norm
        assert 0.99 < engine.guarantee(delta=1e-3).epsilon <= 1
        with pytest.raises(
            RuntimeError, match=f"all {chosen.steps} steps that target_epsilon allows were taken"
        ):
            for x, y in loader:
                F.cross_entropy(module(x), y).backward()
                optimizer.step()

    def test_other_units_and_other_settings_are_refused(self) -> None:
        with pytest.raises(ValueError, match="recommended is for 39 units, but the partition has 40 buckets"):
            self.wrapped(39)
        with pytest.raises(ValueError, match="steps is given twice, by itself and by recommended"):
            self.wrapped(40, steps=3)
        with pytest.raises(ValueError, match=r"recommended is for units that own one bucket, but .* up to 2"):
            self.wrapped(40, partition=replace(Partition.by_record(40), buckets_per_unit=2))
        with pytest.raises(
            ValueError, match="recommended settings are for Poisson draws; leave sampling out"
        ):
            self.wrapped(40, sampling=FixedNumberSampling(2))

    def test_without_it_every_setting_is_needed(self) -> None:
        head = nn.Linear(6, 3)
        with pytest.raises(
            ValueError, match="max_grad_norm is missing; give it, or all five settings by recommended"
        ):
            PrivacyEngine().make_private_with_epsilon(
                module=head,
                optimizer=torch.optim.SGD(head.parameters(), lr=0.1),
                data_loader=DataLoader(TensorDataset(torch.randn(4, 6), torch.zeros(4).long())),
                partition=Partition.by_record(4),
                sampling_rate=0.5,
                steps=3,
                target_epsilon=1.0,
                target_delta=1e-3,
            )


@pytest.mark.parametrize(
    ("sampling", "rate"),
    [(FixedNumberSampling(2), None), (TruncatedPoissonSampling(4), 0.3), (BallsInBinsSampling(4), None)],
)
def test_a_target_of_other_draws_is_met_and_enforced(sampling: Sampling, rate: float | None) -> None:
    engine = PrivacyEngine()
    steps = None if isinstance(sampling, BallsInBinsSampling) else 6
    module, optimizer, loader = wrap(engine, sampling=sampling, sampling_rate=rate, steps_per_epoch=steps)
    with pytest.raises(RuntimeError, match=r"all 12 steps that target_epsilon allows were taken"):
        for _ in range(4):
            epoch(module, optimizer, loader)
    assert engine.ledger.steps == optimizer.released_steps == 12
    assert steps_of(engine.plan.mechanism) * sum(times for _, times in engine.ledger.runs) == 12
    assert 3.0 * 0.99 < engine.guarantee(1e-3).epsilon <= 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": FixedNumberSampling(2)}, "sampling_rate is 0.5, which does not apply"),
        ({"sampling_rate": None}, "sampling_rate is missing"),
        ({"sampling": FixedNumberSampling(2), "sampling_rate": None, "steps": None}, "steps is missing"),
        (
            {"sampling": FixedNumberSampling(2), "sampling_rate": None, "adjacency": "add_remove"},
            "'add_remove' is not defined",
        ),
        ({"sampling": BallsInBinsSampling(5), "sampling_rate": None}, "steps must be a multiple of 5"),
    ],
)
def test_contradictions_of_sampling_and_target_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrap(PrivacyEngine(), **options)
