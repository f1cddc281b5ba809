"""DP-SGD by Opacus: what is released is what is billed, and each update is the one of the definition."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from opacus.accountants import PRVAccountant
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from dpmi import models
from dpmi.data import Split
from dpmi.defenses import Batch, Objective, Recipe, RecordDP, Session, Setup
from dpmi.defenses.record_dp import GradSampleMode

from .conftest import fit, weights

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
            inputs=split.train.images,
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
