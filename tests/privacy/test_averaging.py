"""Averages of weights: closed forms, private steps with empty draws, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.averaging import DECAY, Average, WeightAverage


def walked(kind: Average, steps: int, *, of: int | None = None) -> tuple[nn.Parameter, WeightAverage]:
    """A weight that is 1, 4, 9, ... after its steps."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    average = WeightAverage(optimizer, kind, steps=of or steps)
    for step in range(1, steps + 1):
        weight.grad = weight.detach() - step**2
        optimizer.step()
    return weight, average


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_the_tail_is_the_mean_of_the_last_half(steps: int) -> None:
    weight, average = walked("tail", steps)
    last = [step**2 for step in range(steps // 2 + 1, steps + 1)]
    with average.applied():
        assert weight.item() == pytest.approx(sum(last) / len(last))
    assert weight.item() == steps**2, "afterwards the last weights are back"


def test_the_moving_average_in_float64() -> None:
    weight, average = walked("ema", 30)
    expected = 1.0
    for step in range(2, 31):
        decay = min(DECAY, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step**2
    with average.applied():
        assert weight.item() == pytest.approx(expected)


def test_applied_for_good() -> None:
    weight, average = walked("tail", 4)
    average.apply()
    assert weight.item() == pytest.approx((9 + 16) / 2)


def test_an_error_inside_gives_the_weights_back() -> None:
    weight, average = walked("tail", 4)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert weight.item() == 16


def test_it_sees_released_steps_only_and_empty_draws_too() -> None:
    torch.default_generator.manual_seed(0)
    model = nn.Linear(3, 2)
    engine = PrivacyEngine()
    module, optimizer, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        data_loader=DataLoader(TensorDataset(torch.randn(12, 3), torch.arange(12) % 2)),
        partition=Partition.by_column([i // 4 for i in range(12)]),
        sampling_rate=0.2,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        max_physical_batch_size=1,
        steps_per_epoch=20,
        seed=1,
    )
    seen: list[torch.Tensor] = []
    optimizer.original_optimizer.register_step_post_hook(
        lambda *_: seen.append(model.weight.detach().clone())
    )
    average = WeightAverage(optimizer, "tail", steps=20)
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert len(seen) == 20
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), torch.stack(seen[10:]).mean(dim=0))
    assert engine.ledger.steps == 20, "averaging is free"


def test_what_cannot_be_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="average must be 'tail' or 'ema', got 'mean'"):
        WeightAverage(optimizer, "mean", steps=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps must be at least 1"):
        WeightAverage(optimizer, "tail", steps=0)
    _, average = walked("tail", 2, of=10)
    with pytest.raises(
        RuntimeError, match="no step was averaged yet: 2 steps were taken, and 'tail' begins after 5"
    ):
        average.apply()
