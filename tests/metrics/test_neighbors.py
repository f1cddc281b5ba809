"""All pairs by one product against pair by pair."""

import pytest
import torch
from torch import Tensor

from dpmi.metrics import neighbors


def points(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [1, 50, 2**22])
def test_nearest(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    some, others = points(7, 3, 2), points(23, 3, 2, seed=1)
    among = torch.tensor([20, 3, 5, 11, 4, 0])
    distances = torch.cdist(some.flatten(1).double(), others[among].flatten(1).double())
    expected, where = distances.min(dim=1)
    found, index = neighbors.nearest_neighbors(some, others, among)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert torch.equal(index, among[where])


@pytest.mark.parametrize("chunk", [1, 50, 2**22])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_neighbor_distances_leave_the_point_itself_out(
    k: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "PAIRS", chunk)
    own = points(9, 4).double()
    expected = [
        sorted(float((p - o).square().sum()) for j, o in enumerate(own) if j != i)[k - 1]
        for i, p in enumerate(own)
    ]
    found = neighbors.neighbor_distances(own, k)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_a_duplicate_is_a_neighbor() -> None:
    own = torch.tensor([[0.0], [0.0], [5.0]], dtype=torch.float64)
    assert neighbors.neighbor_distances(own, 1).tolist() == [0.0, 0.0, 25.0]
