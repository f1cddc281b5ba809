"""Identity losses against their definitions in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dpmi.models.identity import (
    IDENTITY_LOSSES,
    centred_logit,
    cross_entropy,
    doubt,
    logit,
    margin,
    poincare,
)


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([0, 1, 2, 3, 0, 2])


def test_against_brute_force(logits: Tensor) -> None:
    for row, label in enumerate(LABELS.tolist()):
        values = logits[row].numpy()
        own, others = values[label], np.delete(values, label)
        u = values / np.abs(values).sum()
        v = np.full(4, 0.0)
        v[label] = 1 - 1e-4
        apart = 2 * ((u - v) ** 2).sum() / ((1 - (u**2).sum()) * (1 - (v**2).sum()))
        expected = {
            "doubt": 1 - np.exp(own) / np.exp(values).sum(),
            "cross-entropy": math.log(np.exp(values).sum()) - own,
            "logit": -own,
            "centred-logit": values.mean() - own,
            "margin": others.max() - own,
            "poincare": math.acosh(1 + apart),
        }
        for name, loss in IDENTITY_LOSSES.items():
            found = loss(logits, LABELS)[row]
            assert float(found) == pytest.approx(expected[name], rel=1e-9), name


def test_each_is_smaller_the_surer_the_target_is(logits: Tensor) -> None:
    surer = logits.scatter_add(1, LABELS[:, None], torch.full((6, 1), 10.0, dtype=torch.float64))
    for loss in (doubt, cross_entropy, logit, centred_logit, margin, poincare):
        assert (loss(surer, LABELS) < loss(logits, LABELS)).all()


def test_poincare_is_finite_where_a_single_logit_is_not_zero() -> None:
    """There u is on the rim of the ball, where the distance is infinite."""
    alone = torch.tensor([[0.0, 5.0, 0.0]], requires_grad=True)
    value = poincare(alone, torch.tensor([0]))
    value.sum().backward()
    assert value.isfinite().all()
    assert alone.grad is not None
    assert alone.grad.isfinite().all()
