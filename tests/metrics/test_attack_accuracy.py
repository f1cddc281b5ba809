"""Attack accuracy against torchmetrics, and the traps of few classes and of the target as its own judge."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from dpmi import models
from dpmi.metrics import accuracy, attack_accuracy, check_evaluator, class_means


@pytest.mark.parametrize("classes", [6, 10, 300])
def test_is_that_of_torchmetrics(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(200, classes, generator=generator)
    labels = torch.randint(classes, (200,), generator=generator)
    found = attack_accuracy(logits, labels)
    for top, mean in ((1, found.mean), (5, found.mean_top5)):
        theirs = multiclass_accuracy(logits, labels, num_classes=classes, top_k=top, average="micro")
        assert mean == pytest.approx(float(theirs))
    assert found.top5 is not None
    assert bool((found.top5 | ~found.top1).all())


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_top5_of_few_classes_is_undefined(classes: int) -> None:
    """Trap 3: neither a crash nor 100 %."""
    labels = torch.arange(10) % classes
    logits = torch.eye(classes)[labels]
    logits[0] = logits[0].roll(1)
    found = attack_accuracy(logits, labels)
    assert found.top1.tolist() == [False] + 9 * [True]
    assert found.mean == 0.9
    assert found.top5 is None
    assert math.isnan(found.mean_top5)


def test_few_targets_under_an_evaluator_of_more_classes() -> None:
    """The MNIST set-up: a target of 5 digits, an evaluator of 10."""
    logits = torch.arange(10.0).flip(0).repeat(10, 1)
    found = attack_accuracy(logits, torch.arange(10))
    assert found.top1.tolist() == [True] + 9 * [False]
    assert found.top5 is not None
    assert found.top5.tolist() == 5 * [True] + 5 * [False]


def test_per_class() -> None:
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [0.0, 5.0]])
    labels = torch.tensor([0, 0, 1])
    classes, means = class_means(attack_accuracy(logits, labels).top1, labels)
    assert (classes.tolist(), means.tolist()) == ([0, 1], [0.5, 1.0])


def test_equal_logits_are_one_class_s() -> None:
    """A dead evaluator recognises one class in K and five in K, not all of them; top-1 is that of accuracy."""

    class Dead(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 8)

    labels = torch.arange(8)
    found = attack_accuracy(torch.zeros(8, 8), labels)
    assert (found.mean, found.mean_top5) == (1 / 8, 5 / 8)
    assert found.mean == accuracy(Dead(), torch.rand(8, 1, 2, 2), labels)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), r"got shapes \(2, 1\) and \(2,\)"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "R at least 1"),
        (torch.zeros(2, 3), torch.tensor([0]), r"and \(1,\)"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels must be in \[0, 3\).* got 0 to 3"),
        (torch.full((1, 3), torch.nan), torch.tensor([0]), "finite"),
    ],
)
def test_bad_input(logits: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack_accuracy(logits, labels)


def build(seed: int) -> nn.Module:
    return models.build("cnn-small", image_shape=(1, 6, 6), num_classes=3, seed=seed)


def test_the_target_is_no_evaluator() -> None:
    """Trap 11: not the object, not a copy, not with something in front of it, nor a part of it."""
    target = build(0)
    halves = nn.Sequential(nn.Upsample(scale_factor=2), target)
    longer = nn.Sequential(target, nn.Linear(3, 3))
    for evaluator in (target, copy.deepcopy(target), halves, longer, copy.deepcopy(halves)):
        with pytest.raises(ValueError, match="evaluator must be trained apart from the target"):
            check_evaluator(evaluator, target)
    with pytest.raises(ValueError, match="evaluator must be trained apart"):
        check_evaluator(target, longer)


def test_another_training_is_an_evaluator() -> None:
    target = build(0)
    check_evaluator(build(1), target)
    retrained = copy.deepcopy(target)
    with torch.no_grad():
        next(retrained.parameters())[0, 0, 0, 0] += 1
    check_evaluator(retrained, target)
    check_evaluator(models.build("softmax", image_shape=(1, 6, 6), num_classes=3, seed=0), target)
    # Two modules without parameters have nothing that could have been trained together.
    check_evaluator(nn.Flatten(), nn.Flatten())
