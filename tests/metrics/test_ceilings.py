"""The mean of a class at its best brightness, and unseen images, by brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpmi import data
from dpmi.metrics import advantage, baselines, ceilings, mia_distance
from dpmi.metrics.baselines import BRIGHTNESSES


def noise(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


PRIVATE, PRIVATE_LABELS = noise(12, 1, 12, 12, seed=0), torch.arange(12) % 3
UNSEEN, UNSEEN_LABELS = noise(50, 1, 12, 12, seed=1), torch.tensor([0] * 45 + [2] * 5)


@pytest.mark.parametrize("kind", ["euclidean", "ssim"])
def test_by_brute_force(kind: str) -> None:
    found = ceilings(torch.tensor([0, 2]), PRIVATE, PRIVATE_LABELS, UNSEEN, UNSEEN_LABELS, kind=kind)

    def distance(image: Tensor, label: int) -> float:
        of = torch.tensor([label])
        return mia_distance(image[None].clamp(0, 1), of, PRIVATE, PRIVATE_LABELS, kind=kind).mean

    for row, label in enumerate((0, 2)):
        mean = PRIVATE[label == PRIVATE_LABELS].mean(0)
        expected = min(distance(factor * mean, label) for factor in BRIGHTNESSES)
        assert float(found.class_mean[row]) == pytest.approx(expected, abs=1e-6)
        own = UNSEEN[label == UNSEEN_LABELS]
        some = own[torch.linspace(0, len(own) - 1, min(20, len(own))).round().long()]
        mean_distance = sum(distance(image, label) for image in some) / len(some)
        assert float(found.unseen[row]) == pytest.approx(mean_distance, abs=1e-6)


def test_a_class_without_unseen_images_has_no_such_ceiling() -> None:
    found = ceilings(torch.tensor([1]), PRIVATE, PRIVATE_LABELS, UNSEEN, UNSEEN_LABELS)
    assert found.unseen.isnan().all()
    assert found.class_mean.isfinite().all()


def test_on_digits_the_class_mean_is_far_better_than_no_model() -> None:
    split = data.load("digits")
    private, unseen = (split.train.images, split.train.labels), (split.test.images, split.test.labels)
    labels = torch.arange(10)
    without = baselines(labels, *private, split.public)
    found = ceilings(labels, *private, *unseen)
    assert 0.4 < float(advantage(found.class_mean, without).mean()) < 0.6
    assert 0.2 < float(advantage(found.unseen, without).mean()) < 0.6


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"unseen_images have shape \(1, 8, 8\)"):
        ceilings(torch.tensor([0]), PRIVATE, PRIVATE_LABELS, UNSEEN[:, :, :8, :8], UNSEEN_LABELS)
    with pytest.raises(ValueError, match="kind must be"):
        ceilings(torch.tensor([0]), PRIVATE, PRIVATE_LABELS, UNSEEN, UNSEEN_LABELS, kind="cosine")  # type: ignore[arg-type]
