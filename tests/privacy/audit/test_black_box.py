"""Black-box audits: how canaries join the data, and what the final model tells of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.audit import PlantedCanaries, order_statistics, worst_case_start

X = torch.rand(60, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 5


def test_crafted_inputs_are_orthogonal_and_as_long_as_asked() -> None:
    canaries = PlantedCanaries.crafted(20, (1, 8, 8), classes=5, norm=3.0, seed=0)
    flat = canaries.inputs.flatten(1)
    torch.testing.assert_close(flat @ flat.T, 9.0 * torch.eye(20))
    assert canaries.inputs.shape == (20, 1, 8, 8)
    assert set(canaries.labels.tolist()) <= set(range(5))
    again = PlantedCanaries.crafted(20, (1, 8, 8), classes=5, norm=3.0, seed=0)
    assert torch.equal(again.inputs, canaries.inputs)
    assert np.array_equal(again.coins, canaries.coins)


def test_mislabelled_records_keep_their_inputs_and_change_every_label() -> None:
    canaries = PlantedCanaries.mislabelled(X, Y, seed=0)
    assert torch.equal(canaries.inputs, X)
    assert not (canaries.labels == Y).any()
    assert canaries.labels.dtype == Y.dtype


@pytest.mark.parametrize("wrapped", [False, True])
def test_canaries_that_are_in_join_as_buckets_of_their_own(wrapped: bool) -> None:
    canaries = PlantedCanaries.crafted(10, (64,), classes=5, copies=3, seed=1)
    data = TensorDataset(X, Y)
    together, partition = canaries.join(
        Subset(data, range(60)) if wrapped else data, Partition.by_class(Y.numpy())
    )
    assert isinstance(together, ConcatDataset if wrapped else TensorDataset)
    inside = np.flatnonzero(canaries.coins)
    assert len(together) == len(partition) == 60 + 3 * len(inside)  # type: ignore[arg-type]
    assert partition.num_buckets == 5 + len(inside)
    assert partition.names[5:] == tuple(f"canary {i}" for i in inside)
    for place, canary in enumerate(inside):
        for record in partition.records(5 + place):
            x, y = together[int(record)]
            assert torch.equal(x, canaries.inputs[canary])
            assert int(y) == int(canaries.labels[canary])


def test_a_model_with_little_noise_gives_its_canaries_away() -> None:
    canaries = PlantedCanaries.crafted(64, (64,), classes=5, seed=2)
    torch.manual_seed(0)
    start = nn.Linear(64, 5)
    model, engine = copy.deepcopy(start), PrivacyEngine()
    data, partition = canaries.join(TensorDataset(X, Y), Partition.by_column(range(60), unit="record"))
    model_, optimizer, criterion, loader = engine.make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=2.0),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(data),
        partition=partition,
        sampling_rate=0.3,
        noise_multiplier=0.3,
        max_grad_norm=1.0,
        steps_per_epoch=60,
        seed=0,
    )
    for x, y in loader:
        optimizer.zero_grad()
        criterion(model_(x), y).backward()
        optimizer.step()
    scores = canaries.scores(model, start=start)
    assert 1.0 < order_statistics(scores, delta=1e-5) < engine.guarantee(1e-5, adjacency="add_remove").epsilon
    with pytest.raises(ValueError, match="all 64 scores are equal"):
        canaries.scores(start, start=start)


def test_worst_case_start_fits_the_public_records_and_leaves_the_model_as_it_is() -> None:
    model = nn.Linear(64, 5)
    before = copy.deepcopy(model.state_dict())
    fitted = worst_case_start(model, X, Y, steps=300, learning_rate=0.05)
    assert float((fitted(X).argmax(1) == Y).float().mean()) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"canaries is 65, but an input of shape \(64,\) has 64 features"):
        PlantedCanaries.crafted(65, (64,), classes=5)
    with pytest.raises(ValueError, match=r"norm must be above 0, got -1"):
        PlantedCanaries.crafted(6, (64,), classes=5, norm=-1)
    with pytest.raises(ValueError, match="labels has 60 entries of 1 classes"):
        PlantedCanaries.mislabelled(X, torch.zeros(60, dtype=torch.int64))
    with pytest.raises(ValueError, match="have 2, 2 and 3 entries"):
        PlantedCanaries(X[:2], Y[:2], np.array([True, False, True]))
    with pytest.raises(ValueError, match="data has 59 records, but the partition 60"):
        PlantedCanaries.crafted(6, (64,), classes=5).join(
            TensorDataset(X[1:], Y[1:]), Partition.by_class(Y.numpy())
        )
