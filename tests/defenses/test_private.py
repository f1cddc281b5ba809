"""What each of the private defences promises besides the contract."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from accountants import epsilon
from dpmi import models
from dpmi.data import ImageSet, Split
from dpmi.defenses import (
    Batch,
    BucketDP,
    ClassDP,
    NoDefense,
    Objective,
    Recipe,
    RecordDP,
    Session,
    Setup,
    SubclassDP,
    train,
)
from dpmi.defenses.record_dp import GradSampleMode

from .conftest import fit, softmax, weights

PRIVATE = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "max_grad_norm": 1.0}


def _model(kind: str, split: Split) -> nn.Module:
    return models.build(kind, image_shape=split.image_shape, num_classes=10, seed=0)


@pytest.mark.parametrize("noise_multiplier", [0.7, 1.5])
def test_record_epsilon_agrees_with_opacus(split: Split, noise_multiplier: float) -> None:
    defense = RecordDP(noise_multiplier=noise_multiplier, sampling_rate=0.1, max_grad_norm=1.0)
    account = fit(defense, split.train, recipe=Recipe(steps=30, learning_rate=0.1)).account
    assert account is not None
    ours = account.guarantee(1e-5, adjacency="add_remove")
    ((mechanism, steps),) = account.ledger.runs
    assert (mechanism.sampling_rate, mechanism.noise_multiplier, steps) == (0.1, noise_multiplier, 30)
    theirs = PRVAccountant()
    theirs.history = [(mechanism.noise_multiplier, mechanism.sampling_rate, steps)]
    assert ours.epsilon == pytest.approx(theirs.get_epsilon(1e-5, eps_error=0.01), abs=0.02)
    assert account.buckets == len(split.train)


@pytest.mark.parametrize(
    ("asked", "drawn"), [(0.1, 1 / 10), (0.2, 1 / 5), (0.3, 1 / 4), (0.8, 1 / 2), (1, 1)]
)
@pytest.mark.filterwarnings("ignore:sampling_rate is 1")
def test_record_bills_the_rate_that_opacus_draws_at(split: Split, asked: float, drawn: float) -> None:
    defense = RecordDP(noise_multiplier=1.0, sampling_rate=asked, max_grad_norm=1.0)
    sizes: list[int] = []

    class Counting(RecordDP):
        def criterion(self, batch: Batch) -> torch.Tensor:
            sizes.append(len(batch.images))
            return super().criterion(batch)

    counting = Counting(**{f: getattr(defense, f) for f in defense.fields()})
    account = fit(counting, split.train, recipe=Recipe(steps=12, learning_rate=0.1)).account
    assert account is not None
    assert account.ledger.runs[0][0].sampling_rate == drawn
    # Five standard deviations of the mean of 12 binomial draws.
    expected = drawn * len(split.train)
    assert np.mean(sizes) == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - drawn) / 12) + 1e-9)


@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize("kind", ["softmax", "cnn-small"])
def test_empty_draws_of_records_are_steps_and_not_divergence(
    split: Split, kind: str, mode: GradSampleMode
) -> None:
    """The mean loss of no records is NaN, and at this rate more than a third of the draws are empty."""
    defense = RecordDP(noise_multiplier=1.0, sampling_rate=0.0005, max_grad_norm=1.0, grad_sample_mode=mode)
    recipe = Recipe(steps=20, learning_rate=0.1)
    trained = fit(defense, split.train, model=_model(kind, split), recipe=recipe)
    assert trained.account is not None
    assert trained.account.ledger.steps == 20
    assert all(p.isfinite().all() for p in trained.model.parameters())


def test_units_and_numbers_of_buckets(split: Split) -> None:
    recipe = Recipe(steps=2, learning_rate=0.1)
    found = {}
    for defense in (ClassDP(**PRIVATE), SubclassDP(**PRIVATE, clusters_per_class=4), RecordDP(**PRIVATE)):
        account = fit(defense, split.train, recipe=recipe).account
        assert account is not None
        found[account.unit] = account.buckets
    assert found == {"class": 10, "subclass": 40, "record": 1197}


def test_epsilon_is_that_of_the_settings(split: Split) -> None:
    defense = ClassDP(noise_multiplier=1.6, sampling_rate=0.2, max_grad_norm=1.0)
    account = fit(defense, split.train, recipe=Recipe(steps=7, learning_rate=0.1)).account
    assert account is not None
    expected = epsilon(sampling_rate=0.2, noise_multiplier=1.6, steps=7, delta=1e-3, unit="class")
    assert account.guarantee(1e-3).epsilon == expected.epsilon
    assert account.guarantee(1e-3).adjacency == "replace"


def test_subclass_statement_begins_with_its_condition(split: Split) -> None:
    recipe = Recipe(steps=2, learning_rate=0.1)
    subclass = fit(SubclassDP(**PRIVATE, clusters_per_class=2), split.train, recipe=recipe).account
    of_class = fit(ClassDP(**PRIVATE), split.train, recipe=recipe).account
    assert subclass is not None
    assert of_class is not None
    assert "conditional on the partition" in subclass.statement(1e-3).markdown().splitlines()[0]
    assert "conditional" not in of_class.statement(1e-3).markdown()


def test_noise_drowns_what_is_learned(split: Split) -> None:
    """The strength is one: with enormous noise the parameters are noise, of the size that is promised."""
    defense = ClassDP(noise_multiplier=1e6, sampling_rate=0.5, max_grad_norm=2.0)
    recipe = Recipe(steps=1, learning_rate=1.0, momentum=0.0)
    trained = fit(defense, split.train, recipe=recipe)
    moved = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    # One step of learning rate 1: noise sigma * S over the divisor qK = 5, in each of 650 parameters.
    assert float(moved.std()) == pytest.approx(1e6 * 2.0 / 5, rel=0.1)


def test_diverging_training_is_refused(split: Split) -> None:
    huge = ImageSet(split.train.images[:200], split.train.labels[:200])
    with pytest.raises(FloatingPointError, match=r"loss of none is .* lower the learning rate \(1e\+38\)"):
        fit(NoDefense(), huge, recipe=Recipe(steps=20, learning_rate=1e38))


def test_more_clusters_than_records_are_refused(split: Split) -> None:
    few = ImageSet(split.train.images[:60], split.train.labels[:60])
    with pytest.raises(ValueError, match="clusters_per_class"):
        fit(SubclassDP(**PRIVATE, clusters_per_class=50), few)


def test_a_defence_without_a_partition_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="partition"):
        BucketDP(**PRIVATE, delta=1e-3)  # type: ignore[abstract]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("sampling_rate", 0.0),
        ("sampling_rate", math.nan),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.inf),
        ("max_grad_norm", math.nan),
        ("delta", 0.0),
        ("delta", math.nan),
    ],
)
def test_ends_of_the_ranges(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .* got {value}"):
        ClassDP(**{**PRIVATE, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("schedule", "linear"),
    ],
)
def test_bad_recipe(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .* got {value!r}"):
        Recipe(**{"steps": 1, "learning_rate": 0.1, field: value})  # type: ignore[arg-type]


def test_cosine_schedule_ends_at_zero(split: Split) -> None:
    """Updates shrink to nothing at the end, and the first is that of the constant schedule."""

    def moves(schedule: str) -> list[float]:
        model = softmax()
        seen = [weights(model)]
        recipe = Recipe(steps=10, learning_rate=0.5, momentum=0.0, schedule=schedule)  # type: ignore[arg-type]
        fitting = partial(train, NoDefense(), model, split.train, recipe, seed=0)
        fitting(progress=lambda *_: seen.append(weights(model)))
        return [float((b - a).norm()) for a, b in pairwise(seen)]

    cosine, constant = moves("cosine"), moves("constant")
    assert cosine[0] == constant[0]
    assert cosine[-1] < 0.1 * constant[-1]


def test_record_level_gradients_are_right_whatever_the_memory_layout_of_the_model(split: Split) -> None:
    """Opacus's unfold misreads channels_last, in which our convolutional models are built."""
    model = models.build("cnn-small", image_shape=split.image_shape, num_classes=10, seed=0)
    images, labels = split.train.images[:5], split.train.labels[:5]
    parameters = list(model.parameters())
    expected = [
        torch.autograd.grad(F.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]), parameters)
        for i in range(5)
    ]
    defense = RecordDP(noise_multiplier=1.0, sampling_rate=0.1, max_grad_norm=1.0)
    session = defense.privatize(
        Setup(
            module=model,
            optimizer=torch.optim.SGD(parameters, lr=0.1),
            data=split.train,
            batch_size=1,
            steps=1,
            seed=0,
            stage_seed=0,
            objective=Objective(defense, model, (1, 8, 8), 10, 0),
        )
    )
    F.cross_entropy(session.module(images), labels).backward()
    for k, p in enumerate(parameters):
        torch.testing.assert_close(
            p.grad_sample, torch.stack([grads[k] for grads in expected]), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["softmax", "cnn-small"])
def test_ghost_clipping_takes_the_updates_that_hooks_take(split: Split, kind: str) -> None:
    recipe = Recipe(steps=15, learning_rate=0.3)

    def trained(mode: GradSampleMode) -> torch.Tensor:
        defense = RecordDP(**PRIVATE, grad_sample_mode=mode)
        return weights(fit(defense, split.train, model=_model(kind, split), recipe=recipe).model)

    torch.testing.assert_close(trained("ghost"), trained("hooks"), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
@pytest.mark.parametrize("mode", ["hooks", "ghost"])
@pytest.mark.parametrize(("kind", "max_grad_norm"), [("softmax", 3.5), ("cnn-small", 1.5)])
def test_record_updates_are_dp_sgd_by_definition(
    split: Split, kind: str, max_grad_norm: float, mode: GradSampleMode
) -> None:
    """Record by record in float64: clip each gradient, add, divide by the expected number of draws."""
    settings = {"noise_multiplier": 0.0, "sampling_rate": 0.05, "max_grad_norm": max_grad_norm}
    draws: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Recorded:
        def __init__(self, loader: DataLoader[Any]) -> None:
            self.loader = loader

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for images, labels in self.loader:
                draws.append((images.double(), labels))
                yield images, labels

    class Recording(RecordDP):
        def privatize(self, setup: Setup) -> Session:
            session = super().privatize(setup)
            return dataclasses.replace(session, loader=Recorded(session.loader))  # type: ignore[arg-type]

    recipe = Recipe(steps=3, learning_rate=0.5, momentum=0.0)
    model = fit(
        Recording(**settings, grad_sample_mode=mode), split.train, model=_model(kind, split), recipe=recipe
    ).model

    exact = _model(kind, split).double()
    parameters = list(exact.parameters())
    for images, labels in draws:
        grads = [
            torch.autograd.grad(F.cross_entropy(exact(images[i : i + 1]), labels[i : i + 1]), parameters)
            for i in range(len(images))
        ]
        norms = [float(torch.cat([g.flatten() for g in record]).norm()) for record in grads]
        assert min(norms) < max_grad_norm < max(norms)
        clips = torch.tensor([min(1.0, max_grad_norm / norm) for norm in norms], dtype=torch.float64)
        with torch.no_grad():
            for k, p in enumerate(parameters):
                total = torch.einsum("n,n...->...", clips, torch.stack([record[k] for record in grads]))
                p.sub_(recipe.learning_rate * total / int(0.05 * len(split.train)))
    torch.testing.assert_close(weights(model).double(), weights(exact), rtol=0, atol=1e-5)
