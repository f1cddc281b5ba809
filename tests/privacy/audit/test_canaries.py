"""Coins, and the gradients of drawn canaries."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from dpmi.privacy.audit.canaries import LENGTH, CanaryGradients, Coins
from dpmi.privacy.audit.directions import Directions
from dpmi.privacy.gradients.running_sum import RunningSum


def test_coins_are_fair_and_of_both_kinds() -> None:
    coins = Coins.toss(4000, np.random.default_rng(0))
    assert set(coins.sign[::2]) == {0, 1}
    assert set(coins.sign[1::2]) == {-1, 1}
    assert abs(coins.heads.mean() - 0.5) < 0.03
    assert coins.replaced.sum() == 2000


def test_gradients_of_drawn_canaries() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    trained = list(model.parameters())
    directions = Directions(5, sum(p.numel() for p in trained), key=1, device=torch.device("cpu"))
    coins = Coins(np.array([1, -1, 0, 1, 1]))
    drawn = np.array([1, 2, 4])
    gradients = CanaryGradients(directions, coins, 3, drawn=drawn, max_grad_norm=0.5, trained=trained)
    assert gradients.norms().tolist() == [LENGTH * 0.5, 0.0, LENGTH * 0.5]
    for i, canary in enumerate(drawn):
        flat = torch.cat([part.flatten() for part in gradients.of(i) if part is not None])
        torch.testing.assert_close(float(flat.norm()), float(gradients.norms()[i]))
        torch.testing.assert_close(
            flat, LENGTH * 0.5 * coins.sign[canary] * directions.combination(3, np.eye(5)[canary])
        )
    total = RunningSum(trained)
    total.start(lambda flat: flat.zero_())
    gradients.add_to(total, torch.tensor([0.25, 1.0, 0.5], dtype=torch.float64))
    summed = torch.cat([part.flatten() for part in total.gradients()])
    torch.testing.assert_close(
        directions.scores(3, summed) / LENGTH, torch.tensor([0.0, -0.125, 0.0, 0.0, 0.25])
    )
