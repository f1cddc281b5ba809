"""Audits by many runs: on known mechanisms, on the engine, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.audit import many_runs

from .small import X, Y, go_on


def test_randomised_response_is_bounded_from_below_in_its_share_of_runs() -> None:
    epsilon = math.log(3)

    def bound(seed: int) -> float:
        generator = np.random.default_rng(seed)
        keep = 0.75
        return many_runs(
            lambda inside, _: float(inside == (generator.random() < keep)), 300, delta=0.0, seed=seed
        ).lower_bound

    found = np.array([bound(seed) for seed in range(40)])
    assert (found > epsilon).sum() <= stats.binom.ppf(0.999, 40, 0.05)
    assert np.median(found) > 0.4


def test_the_ceiling_is_what_perfect_guesses_reach() -> None:
    perfect = many_runs(lambda inside, seed: inside + 0.01 * seed / 200, 200, delta=1e-5, seed=0)
    assert perfect.lower_bound == perfect.ceiling
    assert perfect.ceiling < math.log(200 / 4)
    assert (perfect.runs, perfect.confidence) == (100, 0.95)


def test_every_run_has_its_own_seed_and_half_of_them_the_canary() -> None:
    calls: list[tuple[bool, int]] = []

    def score(inside: bool, seed: int) -> float:
        calls.append((inside, seed))
        return float(seed)

    many_runs(score, 20, delta=0.0, seed=1)
    assert sorted(seed for _, seed in calls) == list(range(20))
    assert sum(inside for inside, _ in calls) == 10


def test_the_engine_is_below_its_claim_and_above_nothing() -> None:
    """One release of softmax regression from zero weights, scored along the canary's own gradient."""
    x, y = X[:31].clone(), Y[:31]
    x[30] *= 100
    direction = torch.outer(1 / 6 - nn.functional.one_hot(y[30], 6), x[30])
    claims = []

    def score(inside: bool, seed: int) -> float:
        model, n, engine = nn.Linear(20, 6, bias=False), 30 + inside, PrivacyEngine()
        nn.init.zeros_(model.weight)
        module, optimizer, loader = engine.make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
            data_loader=DataLoader(TensorDataset(x[:n], y[:n])),
            partition=Partition.by_column(np.arange(n) // 10, unit="user"),
            sampling_rate=0.9,
            noise_multiplier=0.3,
            max_grad_norm=1.0,
            steps_per_epoch=1,
            seed=seed,
        )
        go_on(module, optimizer, loader)
        claims.append(engine.guarantee(1e-5, adjacency="add_remove").epsilon if seed == 0 else 0.0)
        return -float((model.weight.detach() * direction).sum())

    found = many_runs(score, 80, delta=1e-5, seed=0)
    assert 0.2 < found.lower_bound <= found.ceiling < max(claims)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="runs must be at least 20, got 10"):
        many_runs(lambda *_: 1.0, 10, delta=0.0)
    with pytest.raises(ValueError, match="all 20 scores are equal"):
        many_runs(lambda *_: 1.0, 20, delta=0.0)
