"""The public images that a label mean averages, by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dpmi.attacks import Budget, LabelMean, LabelsOnly, Reconstructions
from dpmi.attacks.label_mean import highest
from dpmi.testing.digits import digits

from .conftest import SHAPE

PUBLIC = digits().test.images


def run(attack: LabelMean, target: nn.Module, budget: Budget | None = None) -> Reconstructions:
    return attack.run(
        target,
        torch.arange(10),
        image_shape=SHAPE,
        generator=torch.Generator(),
        knowledge=attack.fit(target, public=PUBLIC, image_shape=SHAPE),
        budget=budget,
    )


def by_hand(logits: Tensor, count: int) -> Tensor:
    centred = logits - logits.mean(1, keepdim=True)
    return torch.stack([PUBLIC[centred[:, k].argsort(descending=True)[:count]].mean(0) for k in range(10)])


@pytest.mark.parametrize("count", [1, 10])
def test_it_is_the_mean_of_the_images_with_the_largest_centred_logits(trained: nn.Module, count: int) -> None:
    with torch.no_grad():
        expected = by_hand(trained.eval()(PUBLIC), count)
    found = run(LabelMean(images=count), trained)
    torch.testing.assert_close(found.images, expected)
    assert found.queries == len(PUBLIC) + 10 + 2  # the final scores, and the probe
    assert found.grad_calls == 0


def test_log_probabilities_give_the_same_images(trained: nn.Module) -> None:
    told = nn.Sequential(trained, nn.LogSoftmax(dim=1))
    torch.testing.assert_close(run(LabelMean(), told).images, run(LabelMean(), trained).images)


def test_labels_alone_give_the_images_most_often_given_the_label(trained: nn.Module) -> None:
    target = LabelsOnly(trained)
    found = run(LabelMean(copies=50), target)
    assert found.queries == 50 * len(PUBLIC) + 10 + 2
    # Averaged over ten classes, they are nearly as near to the class means as those of the logits.
    train = digits().train
    means = torch.stack([train.images[train.labels == k].mean(0) for k in range(10)])

    def far(images: Tensor) -> float:
        return float((images - means).flatten(1).norm(dim=1).mean())

    assert far(found.images) < 1.2 * far(run(LabelMean(), trained).images)
    assert far(found.images) < 0.7 * far(PUBLIC.mean(0).expand(10, -1, -1, -1))


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 10)


@pytest.mark.parametrize("target", [Constant(), LabelsOnly(Constant())], ids=["logits", "labels"])
def test_a_target_that_says_nothing_gives_the_mean_image(target: nn.Module) -> None:
    found = run(LabelMean(), target).images
    torch.testing.assert_close(found[5:], PUBLIC.mean(0).expand(5, -1, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("limit", [13, 100, 250])
def test_a_budget_ends_the_queries(trained: nn.Module, limit: int) -> None:
    found = run(LabelMean(), trained, Budget(queries=limit))
    assert limit / 2 < found.queries <= limit
    assert found.stopped_by == "queries"


@pytest.mark.parametrize("limit", [13, 500, 3000])
def test_a_budget_ends_the_queries_of_labels(trained: nn.Module, limit: int) -> None:
    found = run(LabelMean(), LabelsOnly(trained), Budget(queries=limit))
    assert limit / 2 < found.queries <= limit
    assert found.stopped_by == "queries"


def test_weights_of_ties_and_of_few_rows() -> None:
    ranks = torch.tensor([[5.0, 1.0], [5.0, 1.0], [4.0, 0.0], [3.0, -1.0]])
    assert highest(ranks, 1)[:, 0].tolist() == [0.5, 0.5, 0.0, 0.0]
    torch.testing.assert_close(highest(ranks, 3)[:, 0], torch.tensor([1, 1, 1, 0]) / 3)
    assert highest(ranks, 9).tolist() == [[0.25, 0.25]] * 4
