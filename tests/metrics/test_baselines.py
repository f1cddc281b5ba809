import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from dpmi.metrics import advantage, baselines, mia_distance
from dpmi.metrics.baselines import BRIGHTNESSES, CANDIDATES, at_best_brightness


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([2, 0, 1])


@pytest.mark.parametrize("kind", ["euclidean", "ssim"])
def test_are_mia_distances(kind: str) -> None:
    private, public = noise(30, 1, 12, 12), noise(7, 1, 12, 12, seed=1)
    private_labels = torch.arange(30) % 3

    def distance(image: Tensor) -> Tensor:
        return mia_distance(image.expand(3, 1, 12, 12), LABELS, private, private_labels, kind=kind).values

    found = baselines(LABELS, private, private_labels, public, kind=kind)
    levels = [distance(torch.full((1, 12, 12), level)) for level in (0.0, 0.5)]
    torch.testing.assert_close(found.blank, torch.minimum(*levels))
    brightened = at_best_brightness(public.mean(0), public, kind=kind)
    means = torch.minimum(distance(public.mean(0)), distance(brightened))
    torch.testing.assert_close(found.public_mean, means)
    every = torch.stack([distance(image) for image in public])
    # 10 private x 7 public images: all but 6 pairs are candidates, and the nearest is.
    torch.testing.assert_close(found.public_nearest, every.amin(0))


def test_blank_is_the_nearer_start_of_an_attack() -> None:
    """An attack that never left black or grey must not be told that it gained something."""
    private = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.6)])
    found = baselines(torch.arange(2), private, torch.arange(2), private[:0])
    torch.testing.assert_close(found.blank, torch.tensor([0.2, 0.2], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["euclidean", "ssim"])
def test_brightness_is_chosen_by_public_images_alone(kind: str) -> None:
    public = photographs(40, seed=0)
    mean = public.mean(0)
    found = at_best_brightness(mean, public, kind=kind)

    def nearest(image: Tensor) -> float:
        zeros = torch.zeros(len(public), dtype=torch.int64)
        return mia_distance(image[None].clamp(0, 1), zeros[:1], public, zeros, kind=kind).mean

    assert nearest(found) == pytest.approx(min(nearest(factor * mean) for factor in BRIGHTNESSES), abs=1e-6)


def test_a_pale_mean_is_no_gain_of_the_model() -> None:
    """Whoever makes the mean of some strokes paler comes nearer to other strokes, and needs no model for it."""
    strokes = torch.zeros(60, 1, 12, 12)
    for i in range(60):
        strokes[i, 0, i % 12] = strokes[i, 0, :, (5 * i) % 12] = 1
    private, public = strokes[:30], strokes[30:]
    labels = torch.arange(30) % 3
    known = baselines(torch.arange(3), private, labels, public)
    mean = public.mean(0)
    whole, pale = (
        mia_distance(image.expand(3, 1, 12, 12), torch.arange(3), private, labels).values
        for image in (mean, at_best_brightness(mean, public))
    )
    assert (pale != whole).all()
    torch.testing.assert_close(known.public_mean, torch.minimum(pale, whole))
    assert (advantage(pale, known) <= 1e-9).all()
    assert (advantage(whole, known) <= 1e-9).all()


def photographs(count: int, seed: int) -> Tensor:
    """Digits enlarged to 24x24: structure, which noise has not."""
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.nn.functional.interpolate(images[rows], size=(24, 24), mode="bilinear").clamp(0, 1)


@pytest.mark.parametrize(("kind", "slack"), [("euclidean", 1e-6), ("ssim", 0.01)])
def test_nearest_public_image_among_many(kind: str, slack: float) -> None:
    """Of thousands of pairs some are measured: exact for Euclidean, nearly so for SSIM, never too low."""
    private, public = photographs(120, seed=0), photographs(150, seed=1)
    private_labels = torch.arange(120) % 2
    assert 100 * CANDIDATES < 60 * 150
    found = baselines(torch.arange(2), private, private_labels, public, kind=kind)
    for label in range(2):
        whole = mia_distance(
            public, torch.full((150,), label), private, private_labels, kind=kind
        ).values.min()
        assert whole - 1e-6 <= found.public_nearest[label] <= whole + slack


def test_one_class_of_a_kind_does_not_depend_on_the_others() -> None:
    private, public = noise(30, 1, 12, 12), noise(7, 1, 12, 12, seed=1)
    private_labels = torch.arange(30) % 3
    every = baselines(LABELS, private, private_labels, public)
    single = baselines(torch.tensor([0, 0]), private, private_labels, public)
    assert single.public_nearest.tolist() == [every.public_nearest[1].item()] * 2


def test_without_public_images_only_the_blank_one_is_known() -> None:
    """Trap 9: what was not measured is NaN, not 0."""
    private = noise(4, 1, 12, 12)
    found = baselines(torch.arange(2), private, torch.tensor([0, 1, 0, 1]), private[:0])
    assert found.blank.isfinite().all()
    assert found.public_mean.isnan().all()
    assert found.public_nearest.isnan().all()


def test_bad_input() -> None:
    private, labels = noise(4, 1, 12, 12), torch.tensor([0, 1, 0, 1])
    with pytest.raises(ValueError, match="public_images have shape"):
        baselines(torch.arange(2), private, labels, noise(3, 1, 9, 12))
    with pytest.raises(ValueError, match=r"public_images must have pixels in \[0, 1\]"):
        baselines(torch.arange(2), private, labels, 2 * noise(3, 1, 12, 12))
    with pytest.raises(ValueError, match="class 2 has no private image"):
        baselines(torch.arange(3), private, labels, noise(3, 1, 12, 12))
