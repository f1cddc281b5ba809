"""What the training loop does with the hooks: stages, frozen layers, the optimizer, and refusals before it starts."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.data import ImageSet, Split
from dpmi.defenses import (
    Batch,
    ClassDP,
    Defense,
    NoDefense,
    Recipe,
    RecordDP,
    Session,
    Setup,
    check,
    compose,
    train,
)

from .conftest import RECIPE, fit, softmax, weights

ONE_STEP_PER_STAGE = Recipe(steps=2, learning_rate=1.0, momentum=0.0)
DP = {"noise_multiplier": 1.0, "sampling_rate": 0.3, "max_grad_norm": 1.0}


@dataclass(frozen=True, kw_only=True)
class Shares(Defense):
    """Trains in stages of these shares, and keeps nothing else."""

    name: ClassVar[str] = "shares"

    shares: tuple[float, ...] = (0.5, 0.5)

    @property
    def stages(self) -> tuple[tuple[Defense, float], ...]:
        return tuple((self, share) for share in self.shares)


@dataclass(frozen=True, kw_only=True)
class Frozen(Defense):
    """Leaves some layers, or parameters, alone."""

    name: ClassVar[str] = "frozen"

    layers: tuple[str, ...]

    def frozen(self, model: nn.Module) -> tuple[str, ...]:
        return self.layers


@dataclass(frozen=True, kw_only=True)
class Observed(Defense):
    """Needs the outputs of a layer."""

    name: ClassVar[str] = "observed"

    layer: str

    def observed(self, model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
        return (self.layer,)

    def penalty(self, batch: Batch) -> Tensor:
        return batch.latents[self.layer].square().mean()


@dataclass(frozen=True, kw_only=True)
class Pretrained(Defense):
    """Starts from a model that public images have trained."""

    name: ClassVar[str] = "pretrained"
    needs_pretrained: ClassVar[bool] = True


def normalized() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


class TestStages:
    @pytest.mark.parametrize(
        "shares", [(1.0,), (0.5, 0.5), (0.2, 0.5, 0.3), (1 / 3, 1 / 3, 1 / 3), (0.01, 0.99)]
    )
    @pytest.mark.parametrize("steps", [1, 7, 10])
    def test_updates_add_up(
        self, split: Split, monkeypatch: pytest.MonkeyPatch, shares: tuple[float, ...], steps: int
    ) -> None:
        """Each within one of its share; a stage without updates is left out."""
        setups = _setups(monkeypatch, Shares)
        reports: list[tuple[int, int]] = []
        train(
            Shares(shares=shares),
            softmax(),
            split.train,
            Recipe(steps=steps, learning_rate=0.1),
            seed=0,
            progress=lambda *report: reports.append(report),
        )
        taken = [setup.steps for setup in setups]
        assert sum(taken) == steps
        assert all(taken)
        if len(taken) == len(shares):
            assert taken == pytest.approx([share * steps for share in shares], abs=1)
        assert reports == [(done, steps) for done in range(1, steps + 1)]

    def test_each_draws_anew_and_keeps_what_stays(
        self, split: Split, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        setups = _setups(monkeypatch, Shares)
        fit(Shares(shares=(0.25,) * 4), split.train, seed=5)
        assert [setup.seed for setup in setups] == [5] * 4
        assert setups[0].stage_seed == 5, "one stage is what it was before there were several"
        assert len({setup.stage_seed for setup in setups}) == 4

    def test_noise_of_the_second_stage_is_other_noise(self, split: Split) -> None:
        """The same noise twice would cancel in the difference of the two models."""
        moves = _moves(split, compose(Shares(), ClassDP(**{**DP, "noise_multiplier": 1e6})))
        assert len(moves) == 2
        first, second = moves
        correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
        assert abs(float(correlation)) < 5 / math.sqrt(len(first))
        assert float(second.std() / first.std()) == pytest.approx(1, rel=0.15)

    def test_optimizer_and_schedule_start_again(self, split: Split) -> None:
        """Cosine goes down to 0 in each stage, so that the last update of a stage is the smallest."""
        recipe = Recipe(steps=20, learning_rate=0.5, momentum=0.0, schedule="cosine")
        moved = [float(move.norm()) for move in _moves(split, Shares(), recipe)]
        assert moved[9] < 0.1 * moved[0]
        assert moved[10] > 5 * moved[9]
        assert moved[19] < 0.1 * moved[10]


class TestFrozen:
    def test_weights_and_buffers_stay(self, split: Split) -> None:
        model = normalized()
        before = deepcopy(model.state_dict())
        after = fit(Frozen(layers=("0", "2")), split.train, model=model).model.state_dict()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"4.weight", "4.bias"}
        after = fit(Frozen(layers=("2",)), split.train, model=normalized()).model.state_dict()
        assert not torch.equal(before["0.running_mean"], after["0.running_mean"]), "it would move if it could"

    def test_single_parameters(self, split: Split) -> None:
        model = normalized()
        before = deepcopy(model.state_dict())
        after = fit(Frozen(layers=("2.bias", "4")), split.train, model=model).model.state_dict()
        stayed = {key for key, value in before.items() if torch.equal(value, after[key])}
        assert stayed == {"2.bias", "4.weight", "4.bias"}

    @pytest.mark.parametrize("private", [ClassDP(**DP), RecordDP(**DP)])
    def test_under_differential_privacy(self, split: Split, private: Defense) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        before = deepcopy(model.state_dict())
        defense = compose(Frozen(layers=("1",)), private)
        trained = fit(defense, split.train, model=model, recipe=Recipe(steps=5, learning_rate=0.1))
        after = trained.model.state_dict()
        assert [torch.equal(before[key], after[key]) for key in before] == [True, True, False, False]
        assert trained.account is not None
        assert trained.account.ledger.steps == 5


def test_adam_takes_its_first_step_by_the_sign_of_the_gradient(split: Split) -> None:
    """Without weight decay, the first step of Adam is learning_rate * g / (|g| + 1e-8)."""
    model = softmax()
    everything = Recipe(steps=1, learning_rate=0.01, batch_size=len(split.train), optimizer="adam")
    loss = F.cross_entropy(model(split.train.images), split.train.labels)
    gradients = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    before = weights(model)
    moved = before - weights(fit(NoDefense(), split.train, model=model, recipe=everything).model)
    expected = 0.01 * gradients / (gradients.abs() + 1e-8)
    sure = gradients.abs() > 1e-5  # of smaller ones, rounding of the mean over records decides
    torch.testing.assert_close(moved[sure], expected[sure], rtol=1e-3, atol=1e-6)
    assert sure.float().mean() > 0.8
    assert torch.equal(moved[gradients == 0], torch.zeros(int((gradients == 0).sum())))


class TestRefusedBeforeTraining:
    @pytest.mark.parametrize("kind", [Observed, Frozen])
    def test_unknown_layer(self, split: Split, kind: type[Defense]) -> None:
        model = nn.Sequential()
        model.add_module("flatten", nn.Flatten())
        model.add_module("classifier", nn.Linear(64, 10))
        defense = Observed(layer="clasifier") if kind is Observed else Frozen(layers=("clasifier",))
        before = weights(model)
        with pytest.raises(ValueError, match="no layer 'clasifier'; the nearest are 'classifier'"):
            train(defense, model, split.train, Recipe(steps=5, learning_rate=0.1), seed=0)
        assert torch.equal(weights(model), before)

    def test_features_are_no_layer_and_are_there(self, split: Split) -> None:
        check(Observed(layer="features"), softmax(), split.train, None, RECIPE)

    @pytest.mark.parametrize("private", [ClassDP(**DP), RecordDP(**DP)])
    def test_batch_norm_under_differential_privacy(self, split: Split, private: Defense) -> None:
        for defense in (private, compose(Shares(), private)):
            with pytest.raises(
                ValueError, match=r"layer '0' .* normalizes over the batch.*GroupNorm.*\+groupnorm"
            ):
                check(defense, normalized(), split.train, None, RECIPE)
        check(NoDefense(), normalized(), split.train, None, RECIPE)

    def test_no_labelled_public_images(self, split: Split) -> None:
        for defense in (Pretrained(), compose(Pretrained(), ClassDP(**DP))):
            with pytest.raises(ValueError, match=r"pretrained.* labelled public images first.*has none"):
                check(defense, softmax(), split.train, None, RECIPE)
            check(defense, softmax(), split.train, split.test, RECIPE)


def _setups(monkeypatch: pytest.MonkeyPatch, kind: type[Defense]) -> list[Setup]:
    """What every stage is started with, while the test runs."""
    seen: list[Setup] = []
    plain = kind.privatize

    def recording(self: Defense, setup: Setup) -> Session:
        seen.append(setup)
        return plain(self, setup)

    monkeypatch.setattr(kind, "privatize", recording)
    return seen


def _moves(split: Split, defense: Defense, recipe: Recipe = ONE_STEP_PER_STAGE) -> list[Tensor]:
    """The differences of the parameters from one update to the next."""
    model = softmax()
    seen = [weights(model)]
    train(defense, model, split.train, recipe, seed=0, progress=lambda *_: seen.append(weights(model)))
    return [after - before for before, after in pairwise(seen)]


class OfLittleMemory(nn.Sequential):
    """Has memory for the training of 100 images at a time."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) > 100:
            raise torch.OutOfMemoryError
        found: Tensor = super().forward(input)
        return found


def test_private_training_whose_batches_do_not_fit_goes_on_in_smaller_ones(split: Split) -> None:
    few = Recipe(steps=5, learning_rate=0.5)
    whole = fit(ClassDP(**DP), split.train, recipe=few)
    halved = fit(ClassDP(**DP), split.train, recipe=few, model=OfLittleMemory(softmax()))
    assert halved.account == whole.account
    torch.testing.assert_close(weights(halved.model), weights(whole.model), rtol=1e-4, atol=1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        fit(NoDefense(), split.train, recipe=few, model=OfLittleMemory(softmax()))


def test_diverging_training_is_refused(split: Split) -> None:
    huge = ImageSet(split.train.images[:200], split.train.labels[:200])
    with pytest.raises(FloatingPointError, match=r"loss of none is .* lower the learning rate \(1e\+38\)"):
        fit(NoDefense(), huge, recipe=Recipe(steps=20, learning_rate=1e38))
