"""Augmentation by torchvision's names: every image has draws of its own, for every defence.

Modules: dpmi/defenses/augmentation.py, dpmi/defenses/session.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from dpmi.data import ImageSet, Split
from dpmi.defenses import Augmentation, ClassDP, Defense, NoDefense, Recipe, RecordDP, Transfer, train
from dpmi.defenses.augmentation import Augmented, check_augmentation
from dpmi.models.features import FeatureClassifier, PublicStatistics, scattering
from dpmi.privacy import Partition, PrivacyEngine

from .conftest import fit, softmax, weights

FLIP = Augmentation("RandomHorizontalFlip")
MIRROR = Augmentation("RandomHorizontalFlip", p=1.0)
CROP = Augmentation("RandomResizedCrop", size=8, scale=[0.5, 1.0], interpolation="bicubic")

PRIVATE = [
    RecordDP(noise_multiplier=1.0, sampling_rate=0.1, max_grad_norm=1.0),
    RecordDP(noise_multiplier=1.0, sampling_rate=0.1, max_grad_norm=1.0, grad_sample_mode="ghost"),
    ClassDP(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0),
]


def flipped(records: ImageSet) -> ImageSet:
    return ImageSet(records.images.flip(3).contiguous(), records.labels)


def test_variants_are_those_of_torchvision_one_image_at_a_time(split: Split) -> None:
    images, labels = split.train.images[:6], split.train.labels[:6]
    crop = v2.RandomResizedCrop(8, scale=(0.5, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
    mirror = v2.RandomHorizontalFlip()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found, their_labels = Augmented(images, labels, [FLIP, CROP])[[4, 0, 3]]
        torch.manual_seed(1)
        expected = torch.stack([crop(mirror(images[row])).clamp(0, 1) for row in (4, 0, 3)])
        one, label = Augmented(images, labels, [MIRROR])[2]
    assert torch.equal(found, expected)
    assert torch.equal(their_labels, labels[[4, 0, 3]])
    assert torch.equal(one, images[2].flip(2))
    assert label == labels[2]


def test_every_image_and_every_access_has_its_own_draw() -> None:
    ramp = torch.linspace(0, 1, 8).expand(64, 1, 8, 8)
    data = Augmented(ramp, torch.zeros(64, dtype=torch.int64), [FLIP])
    first, second = (data[list(range(64))][0][:, 0, 0, 0] for _ in range(2))
    assert 0 < first.mean() < 1
    assert not torch.equal(first, second)


def test_overshoot_is_cut() -> None:
    """A bicubic filter leaves [0, 1] at an edge."""
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1
    resize = Augmentation("RandomAffine", degrees=10, interpolation="bilinear")
    sharp = Augmentation("RandomAdjustSharpness", sharpness_factor=3, p=1.0)
    data = Augmented(edge, torch.zeros(1, dtype=torch.int64), [CROP, resize, sharp])
    found = torch.stack([data[0][0] for _ in range(20)])
    assert found.min() >= 0
    assert found.max() <= 1
    raw = torch.stack([CROP.build()(edge[0]) for _ in range(20)])
    assert raw.max() > 1


@pytest.mark.parametrize("defense", [NoDefense(), *PRIVATE], ids=lambda d: f"{d.name}-{d.label}")
def test_training_on_mirrored_images_is_training_on_the_mirrored_data(defense: Defense, split: Split) -> None:
    recipe = Recipe(steps=5, learning_rate=0.1, augmentation=(MIRROR,))
    plain = Recipe(steps=5, learning_rate=0.1)
    found = fit(defense, split.train, recipe=recipe)
    expected = fit(defense, flipped(split.train), recipe=plain)
    torch.testing.assert_close(weights(found.model), weights(expected.model), atol=1e-6, rtol=1e-5)
    other = fit(defense, split.train, recipe=plain)
    assert not torch.allclose(weights(found.model), weights(other.model), atol=1e-4)
    assert (found.account is None) == (defense.unit == "none")
    if found.account is not None:
        assert expected.account is not None
        assert found.account.ledger == expected.account.ledger


def test_a_head_on_features_gets_the_features_of_the_variants(split: Split) -> None:
    def trained(records: ImageSet, recipe: Recipe) -> torch.Tensor:
        extractor = scattering((1, 8, 8), scales=1)
        statistics = PublicStatistics(extractor.extract(split.train.images[:300]), dimensions=20)
        torch.default_generator.manual_seed(0)
        model = FeatureClassifier(
            extractor, statistics, torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 10))
        )
        train(NoDefense(), model, records, recipe, seed=0)
        return weights(model.top)

    found = trained(split.train, Recipe(steps=5, learning_rate=0.1, augmentation=(MIRROR,)))
    plain = Recipe(steps=5, learning_rate=0.1)
    torch.testing.assert_close(found, trained(flipped(split.train), plain), atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found, trained(split.train, plain), atol=1e-4)


def test_pretraining_on_public_images_uses_it_too(split: Split) -> None:
    def trained(public: ImageSet, recipe: Recipe) -> torch.Tensor:
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
        )
        torch.default_generator.manual_seed(0)
        for layer in model:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight, std=0.1)
                torch.nn.init.zeros_(layer.bias)
        train(Transfer(frozen_through="1"), model, split.test, recipe, seed=0, public=public)
        return model[1].weight.detach()

    found = trained(split.train, Recipe(steps=5, learning_rate=0.1, augmentation=(MIRROR,)))
    expected = trained(flipped(split.train), Recipe(steps=5, learning_rate=0.1))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_views_are_different_variants_of_each_record(split: Split) -> None:
    records = Augmented(split.train.images[:40], split.train.labels[:40], [CROP])
    model = softmax()
    with pytest.warns(UserWarning, match="noise_multiplier"):
        *_, loader = PrivacyEngine().make_private(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(records),
            partition=Partition.by_record(40),
            sampling_rate=1.0,
            noise_multiplier=0.0,
            max_grad_norm=1.0,
            grad_sample_mode="stream",
            views=3,
        )
    images, labels = next(iter(loader))
    assert len(labels) == 3, "one record, three times"
    assert len(labels.unique()) == 1
    assert len(images.flatten(1).unique(dim=0)) == len(images)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "RandomHorizontalFlop",
            {},
            "must name transforms of torchvision.transforms.v2.*'RandomHorizontalFlop'",
        ),
        ("Transform", {}, "must name transforms"),
        ("InterpolationMode", {}, "must name transforms"),
        ("functional", {}, "must name transforms"),
        ("not a name", {}, "must name transforms"),
        ("RandomCrop", {}, "augmentation RandomCrop: .*missing.*'size'"),
        ("RandomCrop", {"size": 8, "padded": 2}, "augmentation RandomCrop: .*'padded'"),
        (
            "RandomResizedCrop",
            {"size": 8, "interpolation": "best"},
            "'best' is not a valid InterpolationMode",
        ),
        ("RandomRotation", {"degrees": -3}, "augmentation RandomRotation: "),
        ("RandomRotation", {"degrees": {"from": 1}}, "augmentation RandomRotation: degrees must be a number"),
        ("RandomApply", {}, "augmentation RandomApply: .*'transforms'"),
    ],
)
def test_unknown_transforms_and_arguments_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("RandomResizedCrop", {"size": 6}, r"returns torch.float32 of \(1, 6, 6\)"),
        ("RandomCrop", {"size": 9}, r"RandomCrop does not accept an image of \(1, 8, 8\): "),
        (
            "RandomResize",
            {"min_size": 8, "max_size": 12},
            "RandomResize must return images as the model gets them",
        ),
        ("ToPILImage", {}, "ToPILImage must return .* it returns a Image"),
        (
            "Normalize",
            {"mean": [0.5], "std": [0.5]},
            r"must return values in \[0, 1\]; it returns -1 to .*normalize",
        ),
        ("MixUp", {"num_classes": 10}, "MixUp does not accept an image"),
        ("CutMix", {"num_classes": 10}, "CutMix does not accept an image"),
        ("FiveCrop", {"size": 8}, "FiveCrop must return"),
    ],
)
def test_what_gives_no_image_of_the_model_is_refused_before_training(
    name: str, options: dict[str, Any], message: str, split: Split
) -> None:
    model = softmax()
    before, generator = weights(model).clone(), torch.get_rng_state()
    recipe = Recipe(steps=2, learning_rate=0.1, augmentation=(Augmentation(name, **options),))
    with pytest.raises(ValueError, match=message):
        train(NoDefense(), model, split.train, recipe, seed=0)
    assert torch.equal(weights(model), before)
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    "augmentation",
    [
        FLIP,
        CROP,
        Augmentation("RandAugment"),
        Augmentation("RandomErasing"),
        Augmentation("ColorJitter", hue=0.1),
    ],
    ids=lambda each: each.name,
)
def test_what_papers_use_is_accepted(augmentation: Augmentation) -> None:
    check_augmentation([augmentation], (3, 8, 8))


def test_a_recipe_holds_augmentations_only() -> None:
    with pytest.raises(ValueError, match="augmentation must hold objects of Augmentation"):
        Recipe(steps=1, learning_rate=0.1, augmentation=("RandomHorizontalFlip",))  # type: ignore[arg-type]
