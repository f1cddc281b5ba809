"""Defences whose loss is a mean over records, under DP: the updates are those of the definition.

Modules: dpmi/defenses/bucket_dp.py, dpmi/defenses/composition.py, dpmi/defenses/objective.py,
dpmi/defenses/record_dp.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpmi import models
from dpmi.data import ImageSet, Split
from dpmi.defenses import (
    Batch,
    BucketDP,
    Defense,
    Recipe,
    VariationalBottleneck,
    get,
    private_part,
    train,
)
from dpmi.models import observe

from .conftest import softmax, weights

#: Without noise, and with every unit drawn in every step.
DEFINITE = {"noise_multiplier": 0.0, "sampling_rate": 1.0}
RECIPE = Recipe(steps=4, learning_rate=0.5, momentum=0.0)


def buckets(defense: Defense, records: ImageSet) -> list[Tensor]:
    private = private_part(defense)
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
@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
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


def test_the_loss_of_a_bucket_sees_that_bucket_only(split: Split) -> None:
    defense = get("class-dp+mid")(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0, beta=0.1)
    classes: list[set[int]] = []
    done: list[float] = []

    class Recording(type(defense)):  # type: ignore[misc]
        def penalty(self, batch: Batch) -> Tensor | float:
            classes.append(set(batch.labels.tolist()))
            done.append(batch.done)
            return super().penalty(batch)

    recording = Recording(**{f: getattr(defense, f) for f in defense.fields()})
    train(recording, softmax(), ImageSet(split.train.images[:60], split.train.labels[:60]), RECIPE, seed=0)
    assert {len(of_bucket) for of_bucket in classes} == {1}
    assert len(set.union(*classes)) > 1
    assert sorted(set(done)) == [0.0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("class-dp", {}),
        ("class-dp+mid", {"beta": 0.1}),
        ("class-dp+calor", {"rank": 5}),
        ("class-dp+label-smoothing", {"alpha": -0.4}),
        ("class-dp+random-erasing", {"max_area": 0.4, "fill": "mean"}),
        ("class-dp+random-erasing", {"max_area": 0.4, "fill": "random"}),
    ],
)
def test_buckets_share_a_forward_pass(split: Split, name: str, settings: dict[str, Any]) -> None:
    """Some forward pass holds more records than any class has."""
    defense = get(name)(noise_multiplier=1.0, sampling_rate=0.999, max_grad_norm=1.0, **settings)
    model = softmax()
    records: list[int] = []
    model.register_forward_hook(lambda _, args, output: records.append(len(args[0])))
    recipe = Recipe(steps=8, learning_rate=0.1)
    train(defense, model, ImageSet(split.train.images[:60], split.train.labels[:60]), recipe, seed=0)
    assert max(records) > 50, "all buckets of a step"


def test_a_loss_that_compares_records_takes_one_bucket_at_a_time(split: Split) -> None:
    defense = get("class-dp+bido-hsic")(noise_multiplier=1.0, sampling_rate=0.9, max_grad_norm=1.0)
    model = models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)
    data = ImageSet(split.train.images[:60], split.train.labels[:60])
    records: list[int] = []
    model.register_forward_hook(
        lambda module, args, _: records.append(len(args[0])) if module.training else None
    )
    train(defense, model, data, RECIPE, seed=0)
    assert max(records) <= int(data.labels.bincount().max())
