"""The noise that is added, and the draws that are made, have the distribution that is billed.

Modules: dpmi/privacy/distributed.py, dpmi/privacy/optimizer.py, dpmi/privacy/sampling.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dpmi.privacy import BucketSampler, Partition, Plan
from dpmi.privacy.noise import NoiseSource
from dpmi.privacy.physical_limit import PhysicalLimit

from .reference import LEARNING_RATE, private_run


@pytest.mark.parametrize("q", [0.25, 1e-6], ids=["some buckets", "an empty draw"])
def test_noise_has_the_billed_standard_deviation_per_coordinate(q: float) -> None:
    """std sigma * S / (q K); the gradient is zero because the model's output does not depend on its weights."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(50_000))
            self.other = nn.Parameter(torch.zeros(200, 250))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.0 * (self.weight.sum() + self.other.sum())

    model, sigma, clip, buckets = Constant(), 1.7, 3.0, 8
    x, y = torch.randn(8, 3), torch.zeros(8, dtype=torch.int64)
    run = private_run(
        model,
        x,
        y,
        Partition.by_record(buckets),
        sampling_rate=q,
        noise_multiplier=sigma,
        max_grad_norm=clip,
        steps_per_epoch=1,
    )
    assert run.engine.ledger.steps == 1
    for p in model.parameters():
        noise = (p.detach() / LEARNING_RATE).flatten().numpy()
        # Kolmogorov-Smirnov against the exact normal: a wrong scale by 2 % or a wrong shape fails.
        assert stats.kstest(noise, stats.norm(scale=sigma * clip / (q * buckets)).cdf).pvalue > 1e-4
        assert np.std(noise) == pytest.approx(sigma * clip / (q * buckets), rel=0.015)


def test_noise_of_two_parameters_and_two_steps_is_independent() -> None:
    def weights(steps: int) -> torch.Tensor:
        model = nn.Linear(100, 100, bias=False)
        nn.init.zeros_(model.weight)
        private_run(
            model,
            torch.zeros(4, 100),
            torch.zeros(4, dtype=torch.int64),
            Partition.by_record(4),
            noise_multiplier=1.0,
            steps_per_epoch=steps,
        )
        return model.weight.detach().flatten()

    one, two = weights(1), weights(2)
    second = two - one * 1.9  # momentum 0.9: w2 = w1 + lr * (0.9 n1 + n2)
    assert abs(float(torch.corrcoef(torch.stack([one, second]))[0, 1])) < 0.05


@pytest.mark.parametrize("max_buckets", [1, 2, 8])
def test_every_bucket_is_drawn_as_a_whole_at_the_billed_rate(max_buckets: int) -> None:
    sizes = [1, 2, 3, 30, 7]
    partition = Partition.by_column(np.repeat(np.arange(5), sizes))
    plan = Plan(partition=partition, sampling_rate=0.3, noise_multiplier=1.0, max_grad_norm=1.0)
    sampler = BucketSampler(
        plan,
        steps=4000,
        limit=PhysicalLimit(8),
        source=NoiseSource.of(0, secure=False, device=torch.device("cpu")),
    )
    sampler.max_buckets = max_buckets
    drawn, together, count = np.zeros(5), 0, 0
    pending: list[int] = []
    step: set[int] = set()
    for records in sampler:
        while not (batch := sampler.plans.popleft()).buckets:
            count += 1
        assert len(records) == batch.records <= 8
        assert len(batch.buckets) <= max_buckets
        pending += records.tolist()
        if batch.completes_bucket:
            assert pending == [i for bucket in batch.buckets for i in partition.records(bucket).tolist()]
            assert sum(batch.bucket_records) == len(pending)
            drawn[list(batch.buckets)] += 1
            step |= set(batch.buckets)
            pending = []
        if batch.completes_step:
            together += {0, 3} <= step
            step, count = set(), count + 1
    count += len(sampler.plans)
    assert count == 4000
    for k in drawn:
        assert stats.binomtest(int(k), 4000, 0.3).pvalue > 1e-4
    assert stats.binomtest(together, 4000, 0.09).pvalue > 1e-4  # independent, not one draw for all


def test_empty_draws_happen_as_often_as_poisson_sampling_says() -> None:
    run = private_run(
        nn.Linear(2, 2),
        torch.randn(4, 2),
        torch.zeros(4, dtype=torch.int64),
        Partition.by_record(4),
        sampling_rate=0.2,
        steps_per_epoch=1000,
    )
    assert run.engine.ledger.steps == run.optimizer.released_steps == 1000
    empty = sum(not drawn for drawn in run.steps)
    assert stats.binomtest(empty, 1000, 0.8**4).pvalue > 1e-4
