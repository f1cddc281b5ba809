"""Defences whose loss is a mean over records, under DP: the updates are those of the definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi.data import ImageSet, Split
from dpmi.defenses import (
    Batch,
    BucketDP,
    Defense,
    Recipe,
    VariationalBottleneck,
    get,
    train,
)
from dpmi.models import observe

from .conftest import softmax, weights

#: Without noise, and with every unit drawn in every step.
DEFINITE = {"noise_multiplier": 0.0, "sampling_rate": 1.0}
RECIPE = Recipe(steps=4, learning_rate=0.5, momentum=0.0)


def buckets(defense: Defense, records: ImageSet) -> list[Tensor]:
    private = defense.private
    assert private is not None
    if isinstance(private, BucketDP):
        partition = private.partition(records, 0)
        return [torch.as_tensor(partition.records(k)) for k in range(partition.num_buckets)]
    return list(torch.arange(len(records))[:, None])


def loss_of(stage: Defense, model: nn.Module, image: Tensor, label: Tensor, done: float) -> Tensor:
    """What the defence says of a batch of one record."""
    with observe(model, stage.observed(model, (1, 8, 8))) as latents:
        logits = model(image[None])
    batch = Batch(image[None], label[None], logits, latents, done)
    return stage.criterion(batch).mean() + stage.penalty(batch)


def by_definition(defense: Defense, records: ImageSet, max_grad_norm: float) -> tuple[Tensor, list[float]]:
    """Parameters in float64, record by record and bucket by bucket; and the norm of every bucket's gradient."""
    model = softmax().double()
    norms: list[float] = []
    for stage, share in defense.stages:
        model = stage.build(model)
        parameters = list(model.parameters())
        steps = round(share * RECIPE.steps)
        for step in range(steps):
            total = [torch.zeros_like(p) for p in parameters]
            units = buckets(defense, records)
            for unit in units:
                losses = [
                    loss_of(stage, model, records.images[i].double(), records.labels[i], step / steps)
                    for i in unit.tolist()
                ]
                mean = torch.autograd.grad(torch.stack(losses).mean(), parameters)
                norms.append(float(torch.cat([g.flatten() for g in mean]).norm()))
                for t, g in zip(total, mean, strict=True):
                    t.add_(g * min(1.0, max_grad_norm / norms[-1]) / len(units))
            with torch.no_grad():
                for p, t in zip(parameters, total, strict=True):
                    p.sub_(RECIPE.learning_rate * t)
    return weights(model), norms


@pytest.fixture
def _without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The brute force would draw other noise; everything else of the bottleneck stays."""

    def mean(self: VariationalBottleneck, features: Tensor) -> Tensor:
        return self.gaussian(self.statistics(features))[:, 0]

    monkeypatch.setattr(VariationalBottleneck, "forward", mean)


@pytest.mark.usefixtures("_without_noise")
@pytest.mark.filterwarnings("ignore:noise_multiplier is 0", "ignore:sampling_rate is 1")
@pytest.mark.parametrize(
    ("name", "settings", "max_grad_norm"),
    [
        ("subclass-dp+mid", {"clusters_per_class": 2, "beta": 0.1}, 3.2),
        ("class-dp+mid", {"beta": 0.1}, 3.2),
        ("subclass-dp+calor", {"clusters_per_class": 2, "rank": 5}, 0.9),
        ("class-dp+label-smoothing", {"alpha": -0.4}, 4.0),
        ("record-dp+label-smoothing", {"alpha": -0.4}, 3.0),
        ("record-dp+mid", {"beta": 0.1}, 3.0),
        ("record-dp+calor", {"rank": 5}, 0.9),
    ],
)
def test_updates_are_those_of_the_definition(
    split: Split, name: str, settings: dict[str, Any], max_grad_norm: float
) -> None:
    records = ImageSet(split.train.images[:60], split.train.labels[:60])
    defense = get(name)(**DEFINITE, **settings, max_grad_norm=max_grad_norm)
    trained = train(defense, softmax(), records, RECIPE, seed=0)
    expected, norms = by_definition(defense, records, max_grad_norm)
    assert min(norms) < max_grad_norm < max(norms), "clipped and not clipped"
    torch.testing.assert_close(weights(trained.model).double(), expected, rtol=0, atol=1e-5)
    assert trained.account is not None
    assert trained.account.ledger.steps == RECIPE.steps


def test_noise_of_the_bottleneck_does_not_mix_buckets(split: Split) -> None:
    """No gradient can be compared where each forward pass draws anew: the engine then takes one bucket at a time."""
    defense = get("class-dp+mid")(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0, beta=0.1)
    sizes: list[set[int]] = []

    class Recording(type(defense)):  # type: ignore[misc]
        def criterion(self, batch: Batch) -> Tensor:
            sizes.append(set(batch.labels.tolist()))
            return super().criterion(batch)

    recording = Recording(**{f: getattr(defense, f) for f in defense.fields()})
    train(recording, softmax(), ImageSet(split.train.images[:60], split.train.labels[:60]), RECIPE, seed=0)
    # The first is the rehearsal of two buckets, of which nothing is released.
    assert [len(labels) for labels in sizes[1:]] == [1] * (len(sizes) - 1)
