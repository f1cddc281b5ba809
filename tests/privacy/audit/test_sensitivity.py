"""The measured sensitivity: of a clipped sum, and of one that is not clipped."""

from __future__ import annotations

import torch
from torch import Tensor

from dpmi.privacy.audit.sensitivity import sensitivity

X = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def release(inputs: Tensor, labels: Tensor, *, clipped: bool = True, biases: bool = True) -> Tensor:
    """Sum of the gradients of softmax regression by bucket of three records, from zero weights."""
    total = torch.zeros(6, 3)
    for records in torch.arange(12).split(3):
        x = torch.cat([inputs[records], torch.ones(len(records), 1)], dim=1)
        gradient = x.T @ (1 / 3 - torch.nn.functional.one_hot(labels[records], 3)) / len(records)
        measured = gradient if biases else gradient[:-1]
        total += gradient * (min(1.0, 0.1 / float(measured.norm() + 1e-12)) if clipped else 1.0)
    return total.flatten()


def test_a_clipped_sum_moves_by_its_bound_at_most() -> None:
    check = sensitivity(release, X, Y, torch.arange(3, 6), bound=0.2)
    assert 0.8 < check.found <= 1.0 + 1e-6
    assert check.p_value == 1.0


def test_a_sum_that_is_not_clipped_moves_by_more() -> None:
    check = sensitivity(lambda x, y: release(x, y, clipped=False), X, Y, torch.arange(3), bound=0.2)
    assert check.found > 10
    assert check.p_value == 0.0


def test_biases_that_the_norm_omits_are_seen() -> None:
    check = sensitivity(lambda x, y: release(x, y, biases=False), X, Y, torch.arange(3), bound=0.2)
    assert check.found > 2
    assert check.p_value == 0.0
