"""The small extractor that public images train: it learns, and is refused what it cannot learn from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from dpmi import data
from dpmi.models.features import (
    Extractor,
    Provenance,
    PublicCnn,
    PublicTraining,
    public_cnn,
    train_public_cnn,
)

SHORT = PublicTraining(steps=150, batch_size=64, size=32, kind="photographs")


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    split = data.load("digits")
    return split.train.images, split.train.labels


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 56, 46)])
def test_features_of_any_size(shape: tuple[int, int, int]) -> None:
    network, images = PublicCnn(shape, 7), torch.rand(3, *shape)
    assert network(images).shape == (3, 7)
    maps = network.maps(images)
    assert maps.shape[1] == network[-2].in_features
    torch.testing.assert_close(network[-1](network[-2](maps)), network(images))


def nearest_mean(network: PublicCnn, images: Tensor, labels: Tensor) -> float:
    """Share of the second half whose features are nearest to the mean of their class in the first."""
    features = Extractor(network, image_shape=(1, 8, 8), provenance=Provenance()).extract(images)
    half = len(features) // 2
    means = torch.stack([features[:half][labels[:half] == k].mean(0) for k in range(10)])
    return float((torch.cdist(features[half:], means).argmin(1) == labels[half:]).float().mean())


def test_it_learns(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    held_out = data.load("digits").test
    told: list[int] = []
    trained = train_public_cnn(images, labels, SHORT, progress=lambda done, _: told.append(done))
    assert (told[0], told[-1]) == (0, SHORT.steps)
    torch.default_generator.manual_seed(0)
    random = PublicCnn((1, 8, 8), SHORT.size)
    scores = [nearest_mean(network, held_out.images, held_out.labels) for network in (trained, random)]
    assert scores[0] > 0.9
    assert scores[0] > scores[1] + 0.05


@pytest.mark.parametrize("kind", ["characters", "photographs"])
def test_distortions_keep_what_is_shown(kind: str, digits: tuple[Tensor, Tensor]) -> None:
    """Undistorted, nothing moves: with all ranges empty, a batch is the images themselves, turned if characters."""
    images = digits[0][:50]
    turn = torch.arange(50) % 4
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"MAX_ROTATION": 0.0, "MAX_SHIFT": 0.0, "MAX_SHEAR": 0.0, "THIN": 1.1}.items():
            patch.setattr(public_cnn, name, value)
        for name in ("ZOOM", "CHARACTER_ZOOM"):
            patch.setattr(public_cnn, name, (1.0, 1.0))
        if kind == "characters":
            found = public_cnn._written(images, turn, generator)
            expected = torch.stack(
                [torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turn, strict=True)]
            )
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        else:
            found = public_cnn._seen(images, generator)
            same = (found - images).flatten(1).abs().max(1).values < 1e-4
            mirrored = (found - images.flip(3)).flatten(1).abs().max(1).values < 1e-4
            assert bool((same | mirrored).all())
            assert 10 < int(mirrored.sum()) < 40


def test_strokes_become_wider_and_never_narrower(digits: tuple[Tensor, Tensor]) -> None:
    images = digits[0][:400]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_ROTATION", "MAX_SHIFT", "MAX_SHEAR"):
            patch.setattr(public_cnn, name, 0.0)
        patch.setattr(public_cnn, "CHARACTER_ZOOM", (1.0, 1.0))
        found = public_cnn._written(images, torch.zeros(400), torch.Generator().manual_seed(0))
    added = (found - images).flatten(1).mean(dim=1)
    assert float(added.min()) > -1e-4
    assert float((added < 1e-3).float().mean()) == pytest.approx(public_cnn.THIN, abs=0.1)


def test_a_seed_repeats_it_and_leaves_the_generators_alone(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    few = dataclasses.replace(SHORT, steps=3)
    before = torch.get_rng_state()
    one, same = (train_public_cnn(images, labels, few).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    other = train_public_cnn(images, labels, dataclasses.replace(few, seed=1)).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])


def test_what_it_cannot_learn_from_is_refused(digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    with pytest.raises(ValueError, match="the public images have 1; take labelled images of more classes"):
        train_public_cnn(images, torch.zeros_like(labels), SHORT)
    with pytest.raises(ValueError, match="characters must be square, because they are turned, got 8 x 6"):
        train_public_cnn(images[:, :, :, :6], labels, dataclasses.replace(SHORT, kind="characters"))
    with pytest.raises(ValueError, match="kind must be 'characters' or 'photographs', got 'faces'"):
        PublicTraining(kind="faces")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="diverged: its loss is nan"):
        train_public_cnn(images * torch.nan, labels, dataclasses.replace(SHORT, steps=2))
    with pytest.raises(ValueError, match="learning_rate must be above 0, got 0"):
        PublicTraining(learning_rate=0.0)
    with pytest.raises(ValueError, match="size must be at least 1"):
        PublicTraining(size=0)
