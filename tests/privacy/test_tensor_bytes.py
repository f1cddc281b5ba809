"""The memory of a forward pass is that of its tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpmi.privacy.tensor_bytes import TensorBytes


def test_tensors_that_share_memory_count_once() -> None:
    with TensorBytes() as made:
        t = torch.zeros(10, dtype=torch.float64)
        t.view(2, 5).t().add_(1.0)
    assert made.total == 80


def test_no_tensor_gets_the_memory_of_another() -> None:
    with TensorBytes() as made:
        for _ in range(5):
            torch.ones(1000)
    assert made.total == 5 * 4000


def test_the_memory_of_records_is_the_difference_of_two_passes() -> None:
    model = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 3))
    found = []
    for records in (2, 3):
        with TensorBytes() as made:
            model(torch.zeros(records, 4))
        found.append(made.total)
    assert found[1] - found[0] == 4 * (100 + 100 + 3) + 4 * 4  # with the zeros


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_without_a_storage_are_left_out() -> None:
    with TensorBytes() as made:
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (4,))
    assert made.total <= 8 + 4
