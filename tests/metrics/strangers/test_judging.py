"""The judge without training, against a loop over all pairs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from dpmi.metrics import attack_accuracy
from dpmi.metrics.strangers import class_similarities, judging, type_one_errors


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(9, 5, generator=generator), dim=1)
    private = F.normalize(torch.randn(20, 5, generator=generator), dim=1)
    return features, torch.tensor([2, 4, 7]).repeat(3), private, torch.arange(20) % 10


@pytest.mark.parametrize("pairs", [1, judging.PAIRS])
def test_the_class_is_that_of_the_nearest_private_image(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PAIRS", pairs)
    features, labels, private, of = drawn()
    classes = [7, 4, 2, 9]
    found = class_similarities(features, labels, private, of, classes)
    assert found.dtype == torch.float64
    for row, column in itertools.product(range(9), range(4)):
        cosines = [
            float(features[row].double() @ image.double())
            for image, label in zip(private, of.tolist(), strict=True)
            if label == classes[column]
        ]
        assert float(found[row, column]) == pytest.approx(max(cosines))


def test_private_images_are_assigned_to_their_class_and_noise_to_any() -> None:
    _, _, private, of = drawn()
    classes = range(10)
    assert attack_accuracy(class_similarities(private, of, private, of, classes), of).mean == 1
    noise = F.normalize(torch.randn(20_000, 5, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = torch.arange(20_000) % 10
    chance = attack_accuracy(class_similarities(noise, labels, private, of, classes), labels)
    assert chance.mean == pytest.approx(0.1, abs=0.01)
    assert chance.mean_top5 == pytest.approx(0.5, abs=0.02)


def test_bad_input_is_named() -> None:
    features, labels, private, of = drawn()
    with pytest.raises(ValueError, match=r"classes must include the attacked classes; \[2, 7\] are missing"):
        class_similarities(features, labels, private, of, [4, 5])
    with pytest.raises(ValueError, match="class 12 has no private image"):
        class_similarities(features, labels, private, of, [2, 4, 7, 12])
    with pytest.raises(ValueError, match="must come from one network"):
        class_similarities(features[:, :4], labels, private, of, [2, 4, 7])


@pytest.mark.parametrize("strangers", [1, 2, 3])
def test_a_type_one_error_is_accepted_by_the_own_evaluator_alone(strangers: int) -> None:
    for own, *others in itertools.product([False, True], repeat=1 + strangers):
        found = type_one_errors(torch.tensor([own]), [torch.tensor([other]) for other in others])
        assert found.tolist() == [own and not any(others)]
