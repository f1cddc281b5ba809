"""The suite finds what it is for: each of these plug-ins breaks one promise, and that test fails.

Modules: dpmi/testing/attacks.py, dpmi/testing/defenses.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Candidates, MIFace, Target, Task
from dpmi.data import ImageSet
from dpmi.defenses import Batch, Defense, Recipe, Trained
from dpmi.testing import AttackCase, AttackConformance, DefenseCase, DefenseConformance
from dpmi.testing.attacks import reconstruct
from dpmi.testing.defenses import Watched, watch
from dpmi.testing.digits import classifier, digits

CASE = DefenseCase(recipe=Recipe(steps=3, learning_rate=0.1), accuracy=0.0)


class _Grows(Defense):
    def build(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(model, nn.Linear(10, 10))


class _DrawsGlobally(Defense):
    def build(self, model: nn.Module) -> nn.Module:
        model.get_submodule("1").get_parameter("bias").data.uniform_()
        return model


class _ChecksByTraining(Defense):
    def check(self, model: nn.Module, data: ImageSet, public: ImageSet | None) -> None:
        model.get_submodule("1").get_parameter("bias").data.add_(1)


class _MeanAlready(Defense):
    def criterion(self, batch: Batch) -> Tensor:
        return super().criterion(batch).mean()


class _Compares(Defense):
    def criterion(self, batch: Batch) -> Tensor:
        return super().criterion(batch) + batch.logits.square().mean()


class _Couples(Defense):
    def penalty(self, batch: Batch) -> Tensor:
        return batch.logits.var(dim=0, correction=0).sum()


class _Sums(Defense):
    def penalty(self, batch: Batch) -> Tensor:
        return batch.logits.square().sum()


class _WritesIntoImages(Defense):
    def augment(self, images: Tensor) -> Tensor:
        return images.mul_(1.0).add_(0.01)


class _LeavesOut(Defense):
    def criterion(self, batch: Batch) -> Tensor:
        return batch.logits.detach().square().sum(dim=1).requires_grad_()


class _Tensors(Defense):
    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, Any]:
        return {"entropy": torch.tensor(1.0)}


class _Unseeded(Defense):
    draws: ClassVar[list[int]] = []

    def augment(self, images: Tensor) -> Tensor:
        self.draws.append(0)
        return images + 0.01 * len(self.draws)


class _LeavesAHook(Defense):
    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        model.register_forward_hook(lambda *_: None)
        return {}


class _Warns(Defense):
    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        warnings.warn("look here", stacklevel=2)
        return {}


class _WritesIntoTheData(Defense):
    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        data.images.view(-1)[seed] += 0.5
        return {}


class _StepsTwice(Defense):
    def diagnose(self, model: nn.Module, data: ImageSet, *, seed: int) -> dict[str, float]:
        CASE.recipe.optimizer_of(model.parameters()).step()
        return {}


class _Sound(Defense):
    pass


@dataclass(frozen=True)
class _SameForAll(MIFace):
    """One image, whichever class is asked for."""

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        return super()._run(target, torch.zeros_like(labels), task)


@dataclass(frozen=True)
class _OneGenerator(MIFace):
    """Noise that depends on how many classes are attacked."""

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        found = super()._run(target, labels, task)
        noise = torch.rand(found.images.shape, generator=torch.Generator().manual_seed(len(labels)))
        return Candidates(0.9 * found.images + 0.1 * noise, found.iterations, found.diverged)


@dataclass(frozen=True)
class _Silent(MIFace):
    """Reports no progress."""

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        return super()._run(target, labels, replace(task, progress=lambda *_: None))


@dataclass(frozen=True)
class _AsksBehindTheCount(MIFace):
    """Uses the target's module itself, so that nobody counts."""

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        target._module(torch.zeros(1, *task.image_shape))
        return super()._run(target, labels, task)


@dataclass(frozen=True)
class _Spends(MIFace):
    """Goes on when the budget is spent."""

    def _run(self, target: Target, labels: Tensor, task: Task) -> Candidates:
        target.affords = lambda **_: True  # type: ignore[method-assign]
        return super()._run(target, labels, task)


def _named(kind: type[Defense]) -> Defense:
    kind.name = "broken"
    return kind()


def _watched(kind: type[Defense]) -> Watched:
    return watch(_named(kind), CASE.model, CASE.recipe)


def _trained(kind: type[Defense]) -> Trained:
    return _watched(kind).trained


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (_Grows, DefenseConformance.test_building_again_changes_nothing),
        (_DrawsGlobally, DefenseConformance.test_building_is_deterministic),
        (_ChecksByTraining, DefenseConformance.test_checking_changes_nothing),
        (_MeanAlready, DefenseConformance.test_loss_of_a_record_depends_on_that_record_alone),
        (_Compares, DefenseConformance.test_loss_of_a_record_depends_on_that_record_alone),
        (_Couples, DefenseConformance.test_penalty_is_a_mean_over_records),
        (_Sums, DefenseConformance.test_penalty_is_a_mean_over_records),
        (_LeavesOut, DefenseConformance.test_everything_that_is_not_frozen_has_a_gradient),
    ],
)
def test_hooks_of_a_defence(kind: type[Defense], promise: Callable[..., None]) -> None:
    promise(DefenseConformance(), _named(_Sound), CASE)
    with pytest.raises(AssertionError):
        promise(DefenseConformance(), _named(kind), CASE)


def test_defence_that_writes_into_images() -> None:
    DefenseConformance().test_augments_each_image_by_itself(_named(_Sound))
    with pytest.raises(AssertionError):
        DefenseConformance().test_augments_each_image_by_itself(_named(_WritesIntoImages))


def test_what_a_defence_leaves_behind() -> None:
    suite = DefenseConformance()
    suite.test_returned_model_is_plain(_named(_Sound), _trained(_Sound), CASE)
    suite.test_diagnostics_are_numbers(_trained(_Sound))
    suite.test_the_seed_alone_decides_the_parameters(_named(_Sound), CASE)
    with pytest.raises(AssertionError, match="hooks"):
        suite.test_returned_model_is_plain(_named(_LeavesAHook), _trained(_LeavesAHook), CASE)
    with pytest.raises(AssertionError):
        suite.test_diagnostics_are_numbers(_trained(_Tensors))
    with pytest.raises(AssertionError):
        suite.test_the_seed_alone_decides_the_parameters(_named(_Unseeded), CASE)


def test_what_is_seen_of_a_training_from_outside() -> None:
    suite = DefenseConformance()
    suite.test_training_is_silent(replace(_watched(_Sound), printed=""))
    suite.test_takes_and_bills_exactly_the_steps_of_the_recipe(_named(_Sound), _watched(_Sound), CASE)
    suite.test_data_are_left_alone(_watched(_Sound))
    for loud in (replace(_watched(_Sound), printed="hello"), replace(_watched(_Warns), printed="")):
        with pytest.raises(AssertionError):
            suite.test_training_is_silent(loud)
    with pytest.raises(AssertionError):
        suite.test_takes_and_bills_exactly_the_steps_of_the_recipe(
            _named(_StepsTwice), _watched(_StepsTwice), CASE
        )
    before = digits().train.images.clone()
    with pytest.raises(AssertionError):
        suite.test_data_are_left_alone(_watched(_WritesIntoTheData))
    digits().train.images.copy_(before)


@pytest.mark.parametrize(
    ("kind", "promise"),
    [
        (_SameForAll, AttackConformance.test_images_are_different_and_not_blank),
        (_OneGenerator, AttackConformance.test_class_does_not_depend_on_the_others),
        (_Silent, AttackConformance.test_progress_ends_at_the_total),
        (_AsksBehindTheCount, AttackConformance.test_counts_are_true),
        (_Spends, AttackConformance.test_stops_when_the_budget_is_spent),
    ],
)
def test_attacks(kind: type[MIFace], promise: Callable[..., None]) -> None:
    def ask(attack: MIFace) -> None:
        found = reconstruct(attack)
        fixtures = {
            **dict.fromkeys(("attack", "random_attack"), attack),
            **dict.fromkeys(("found", "drawn"), found),
            "case": AttackCase(),
            "target": deepcopy(classifier()),
        }
        wanted = list(signature(promise).parameters)[1:]
        promise(AttackConformance(), **{name: fixtures[name] for name in wanted})

    ask(MIFace(iterations=200))
    with pytest.raises(AssertionError):
        ask(kind(iterations=200))
