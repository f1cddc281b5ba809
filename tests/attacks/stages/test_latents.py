"""Latent vectors: what they are drawn from, and how far they are moved."""

from __future__ import annotations

import math

import pytest
import torch

from dpmi.attacks.stages.latents import Noise


def test_noise_depends_on_class_and_number_alone() -> None:
    both = Noise(torch.tensor([5, 5, 2, 2]), per_class=2, size=3, seed=1)
    alone = Noise(torch.tensor([2, 2]), per_class=2, size=3, seed=1)
    drawn = torch.stack([both.draw() for _ in range(3)])
    assert torch.equal(drawn[:, 2:], torch.stack([alone.draw() for _ in range(3)]))
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 12
    assert not torch.equal(
        Noise(torch.tensor([2, 2]), per_class=2, size=3, seed=1, first=2).draw(), drawn[0, 2:]
    )


def test_noise_is_standard_normal() -> None:
    drawn = Noise(torch.arange(50), per_class=1, size=400, seed=0).draw()
    assert abs(float(drawn.mean())) < 5 / math.sqrt(20_000)
    assert float(drawn.std()) == pytest.approx(1, abs=0.03)
