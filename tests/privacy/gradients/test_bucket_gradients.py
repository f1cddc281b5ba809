"""Rows and ghost hand the optimizer the same norms and the same weighted sum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.privacy.gradients.bucket_gradients import BucketGradients, Ghost, Rows
from dpmi.privacy.gradients.running_sum import RunningSum

from .test_layers import brute_force, capture_of, loss_of, run, send_back

SIZES = [2, 3, 1]


def gradients_of(kind: str, sizes: list[int]) -> tuple[BucketGradients, list[nn.Parameter], list[Tensor]]:
    """Those of a small network, its parameters, and the rows of a float64 brute force."""
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(sum(sizes), 5)
    trained = list(module.parameters())
    capture = capture_of(module, sizes, ghost=kind == "ghost")
    send_back(loss_of(run(module, x, capture)), capture)
    found = Ghost(capture, trained) if kind == "ghost" else Rows([capture.rows[p] for p in trained])
    return found, trained, list(brute_force(module, x, sizes).values())


@pytest.mark.parametrize("kind", ["rows", "ghost"])
@pytest.mark.parametrize("sizes", [SIZES, [4]])
def test_norms_and_sums_are_those_of_the_brute_force(kind: str, sizes: list[int]) -> None:
    found, trained, expected = gradients_of(kind, sizes)
    norms = torch.cat([rows.flatten(1) for rows in expected], dim=1).norm(dim=1)
    torch.testing.assert_close(found.norms(), norms, rtol=1e-5, atol=0)
    factors = torch.linspace(0.5, 2.0, len(sizes), dtype=torch.float64)
    total = RunningSum(trained)
    total.start(lambda flat: flat.fill_(1.0))
    found.add_to(total, factors)
    for place, rows in zip(total.gradients(), expected, strict=True):
        torch.testing.assert_close(
            place.double(), 1 + torch.tensordot(factors, rows, 1), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("kind", ["rows", "ghost"])
@pytest.mark.parametrize("bucket", range(len(SIZES)))
def test_one_bucket_is_told_from_the_others(kind: str, bucket: int) -> None:
    found, _, expected = gradients_of(kind, SIZES)
    for own, rows in zip(found.of(bucket), expected, strict=True):
        assert own is not None
        torch.testing.assert_close(own.double(), rows[bucket], rtol=1e-5, atol=1e-5)


def test_what_the_loss_did_not_reach_is_zero() -> None:
    rows = Rows([None, torch.tensor([[3.0, 4.0], [0.0, 2.0]])])
    assert rows.norms().tolist() == [5.0, 2.0]
    missing, own = rows.of(1)
    assert missing is None
    assert own is not None
    assert own.tolist() == [0.0, 2.0]


def test_parts_of_a_bucket_add_up() -> None:
    first = Rows([None, torch.tensor([[1.0]]), torch.tensor([[2.0]])])
    first.add(Rows([torch.tensor([[5.0]]), None, torch.tensor([[7.0]])]))
    first.scale(2.0)
    assert [None if row is None else row.tolist() for row in first.rows] == [[[10.0]], [[2.0]], [[18.0]]]
