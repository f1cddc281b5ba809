"""The simulation of a private head: it computes what the engine computes, and shows what noise costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from accountants.recommender import Recommendation, recommend
from dpmi.models import build
from dpmi.models.features.simulation import on_digits, train_heads
from dpmi.privacy import Partition, PrivacyEngine


def chosen(units: int, epsilon: float) -> Recommendation:
    return recommend(units=units, records_per_unit=10, classes=10, target_epsilon=epsilon, delta=1e-5)


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
@pytest.mark.parametrize("max_grad_norm", [0.05, 10.0])
@pytest.mark.parametrize("records", [1, 4, 20])
def test_without_noise_it_is_the_engine(max_grad_norm: float, records: int) -> None:
    """For the three ways to compute a norm: one record, few, and more than the coordinates."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(30, records, 6, generator=generator)
    labels = torch.randint(3, (30, records), generator=generator)
    ours = train_heads(
        features,
        labels,
        classes=3,
        steps=5,
        max_grad_norms=[0.2, max_grad_norm],
        noise_multiplier=0.0,
        learning_rates=[0.3, 0.7],
        generator=generator,
    )[1]
    settings = {"max_grad_norm": max_grad_norm, "noise_multiplier": 0.0}
    head = build("linear", image_shape=(6, 1, 1), num_classes=3, seed=0)
    module, optimizer, loader = PrivacyEngine().make_private(
        module=head,
        optimizer=torch.optim.SGD(head.parameters(), lr=0.7),
        data_loader=DataLoader(TensorDataset(features.view(-1, 6, 1, 1), labels.flatten())),
        partition=Partition.by_column([i // records for i in range(30 * records)]),
        sampling_rate=1.0,
        steps_per_epoch=5,
        seed=0,
        **settings,
    )
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(ours, next(head.parameters()).detach(), rtol=1e-4, atol=1e-6)


def test_its_noise_has_the_size_of_the_settings() -> None:
    features, labels = torch.zeros(50, 2, 40), torch.zeros(50, 2, dtype=torch.int64)
    heads = train_heads(
        features,
        labels,
        classes=100,
        steps=9,
        max_grad_norms=[0.5, 0.1],
        noise_multiplier=3.0,
        learning_rates=[2.0, 1.0],
        generator=torch.Generator().manual_seed(0),
    )
    assert float(heads[0].std()) == pytest.approx(2.0 * 3.0 * 0.5 / 50 * 3, rel=0.05)
    assert float(heads[1].std()) == pytest.approx(1.0 * 3.0 * 0.1 / 50 * 3, rel=0.05)


def test_more_units_and_more_epsilon_are_better() -> None:
    few, more, many = (on_digits(chosen(units, 1.0)) for units in (60, 600, 60_000))
    assert few < more - 0.1
    assert more < many <= on_digits(None) + 0.02
    assert on_digits(chosen(60, 8.0)) > few + 0.1
    assert on_digits(chosen(60, 1.0)) == few, "a seed repeats it"
