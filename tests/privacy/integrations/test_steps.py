"""One pass over the loader is one logical step, whatever was drawn; the steps of an epoch follow from the sampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import FixedNumberSampling, Partition, PrivacyEngine, TruncatedPoissonSampling
from dpmi.privacy.integrations import steps

N = 60
PARTITION = Partition.by_column([i // 3 for i in range(N)], unit="user")


@pytest.mark.parametrize(
    ("privacy", "expected"),
    [
        ({"sampling_rate": 0.1}, 10),
        ({"sampling_rate": 0.3}, 3),
        ({"sampling_rate": 1.0}, 1),
        ({"sampling_rate": 0.7}, 1),
        ({"sampling": FixedNumberSampling(4)}, 5),
        ({"sampling": TruncatedPoissonSampling(3), "sampling_rate": 0.25}, 4),
    ],
    ids=str,
)
def test_an_epoch_draws_every_bucket_once_in_expectation(privacy: dict[str, Any], expected: int) -> None:
    assert steps.per_epoch({"partition": PARTITION, **privacy}) == expected


def test_one_pass_is_one_released_step() -> None:
    engine, model = PrivacyEngine(), nn.Linear(2, 2)
    data = TensorDataset(torch.randn(N, 2), torch.zeros(N, dtype=torch.long))
    private, optimizer, loader = steps.make_private(
        engine,
        {
            "partition": PARTITION,
            "sampling_rate": 0.05,
            "noise_multiplier": 1.0,
            "max_grad_norm": 1.0,
            "seed": 0,
        },
        steps=20,
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(data),
    )
    batches = []
    for step in range(20):
        batches.append(0)
        before = model.weight.detach().clone()
        for x, y in loader:
            nn.functional.cross_entropy(private(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            batches[-1] += 1
        assert engine.ledger.steps == optimizer.released_steps == step + 1
        assert not torch.equal(model.weight, before)
    assert min(batches) == 0
    assert max(batches) > 1


def test_the_noise_of_a_target_is_for_all_steps() -> None:
    engine, model = PrivacyEngine(), nn.Linear(2, 2)
    _, optimizer, _ = steps.make_private(
        engine,
        {"partition": PARTITION, "sampling_rate": 0.5, "target_epsilon": 2.0, "target_delta": 1e-3},
        steps=7,
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(torch.randn(N, 2))),
        max_grad_norm=1.0,
    )
    from accountants import calibrate

    expected = calibrate(target_epsilon=2.0, delta=1e-3, unit="user", sampling_rate=0.5, steps=7)
    assert optimizer.noise_multiplier == expected.mechanism.noise_multiplier


@pytest.mark.parametrize("name", ["steps", "steps_per_epoch", "module"])
def test_an_argument_of_the_integration_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"privacy has '{name}', which the trainer sets: there"):
        steps.check({"partition": PARTITION, name: 1}, own=["module"], where="there")


def test_different_counts_are_refused() -> None:
    steps.check_count(counted=3, released=3)
    with pytest.raises(RuntimeError, match="at step 4, but 3 steps were released"):
        steps.check_count(counted=4, released=3)
