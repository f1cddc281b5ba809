"""Adversarial attacks against closed forms, brute force, and one another."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi import models
from dpmi.data import ImageSet
from dpmi.metrics import accuracy, share_interval
from dpmi.metrics import robustness as module
from dpmi.metrics.robustness import ATTACKS, perturb, robustness

pytest.importorskip("art", reason="the extra `robustness` is not installed")

EPSILON = 8 / 255
IN_THE_BALL = ("fgsm", "pgd", "bim")


@pytest.fixture
def images() -> ImageSet:
    """Forty images, with pixels at both ends of the range, so that cutting matters."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(40, 2, 6, 6, generator=generator) * 1.4 - 0.2
    return ImageSet(pixels.clamp(0, 1), torch.randint(0, 4, (40,), generator=generator))


@pytest.fixture
def cnn() -> nn.Module:
    return models.build("cnn-small", image_shape=(2, 6, 6), num_classes=4, seed=0)


class Noisy(nn.Module):
    """A linear classifier that draws noise when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(72, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits + torch.randn_like(logits)


def linear(weights: Tensor) -> nn.Module:
    """Logits are linear in the pixels; weights are (classes, pixels)."""
    layer = nn.Linear(weights.shape[1], len(weights), bias=False)
    layer.weight.data = weights
    return nn.Sequential(nn.Flatten(), layer)


def losses(model: nn.Module, found: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(found), labels, reduction="none")


def test_settings_are_those_of_the_appendix() -> None:
    steps = {"eps": 8 / 255, "eps_step": 2 / 255, "max_iter": 10}
    assert {
        "fgsm": {"eps": 8 / 255},
        "pgd": {**steps, "num_random_init": 1},
        "bim": steps,
        "one_pixel": {"maxiter": 10, "popsize": 10},
    } == ATTACKS


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_one_step_along_the_sign(cnn: nn.Module, images: ImageSet, targeted: bool) -> None:
    x = images.images.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(cnn(x), images.labels), x)
    sign = -1 if targeted else 1
    expected = (images.images + sign * EPSILON * gradient.sign()).clamp(0, 1)
    found = perturb("fgsm", cnn, images, targeted=targeted, seed=0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", IN_THE_BALL)
@pytest.mark.parametrize("targeted", [False, True])
def test_of_two_linear_classes_the_best_image_is_known(images: ImageSet, attack: str, targeted: bool) -> None:
    """The difference of the logits is w x, so every pixel goes as far as it can along the sign of w."""
    # Weights so small that no probability rounds to 1, where the gradient would be 0.
    weights = torch.randn(2, 72, generator=torch.Generator().manual_seed(1)) * 0.05
    data = ImageSet(images.images, images.labels % 2)
    difference = (weights[1] - weights[0]).sign().view(1, 2, 6, 6)
    away = torch.where(data.labels == 0, 1.0, -1.0).view(-1, 1, 1, 1) * (-1 if targeted else 1)
    expected = (data.images + EPSILON * away * difference).clamp(0, 1)
    found = perturb(attack, linear(weights), data, targeted=targeted, seed=0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("attack", IN_THE_BALL)
def test_stays_in_the_ball_and_among_images(cnn: nn.Module, images: ImageSet, attack: str) -> None:
    found = perturb(attack, cnn, images, seed=0)
    assert found.dtype == torch.float32
    assert float((found - images.images).abs().max()) <= EPSILON + 1e-6
    ImageSet(found, images.labels)  # refuses what is not in [0, 1]


def test_ten_steps_are_stronger_than_one(images: ImageSet) -> None:
    model = models.build("cnn-small", image_shape=(2, 6, 6), num_classes=4, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(images.images), images.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    loss = {
        attack: float(losses(model, perturb(attack, model, images, seed=0), images.labels).mean())
        for attack in IN_THE_BALL
    }
    plain = float(losses(model, images.images, images.labels).mean())
    assert plain < loss["fgsm"] < min(loss["bim"], loss["pgd"])


def test_pgd_starts_at_random_and_bim_does_not(cnn: nn.Module, images: ImageSet) -> None:
    for attack, same in (("pgd", False), ("bim", True)):
        first, second = (perturb(attack, cnn, images, seed=seed) for seed in (0, 1))
        assert torch.equal(first, second) is same


@pytest.mark.parametrize("targeted", [False, True])
def test_one_pixel_against_brute_force(targeted: bool) -> None:
    """Of a linear model the best change sets one pixel to an end of the range, which can be tried out."""
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(3, 8, generator=generator)
    data = ImageSet(torch.rand(30, 2, 2, 2, generator=generator), torch.arange(30) % 3)
    model = linear(weights)
    found = perturb("one_pixel", model, data, targeted=targeted, seed=0)
    ImageSet(found, data.labels)
    changed = (found != data.images).any(dim=1).flatten(1).sum(dim=1)
    assert changed.tolist() == [1] * 30

    ends = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2)
    tried = []
    for place in range(4):
        for end in ends:
            other = data.images.flatten(2).clone()
            other[:, :, place] = end
            tried.append(model(other.view_as(data.images)))
    everything = torch.stack(tried)  # (changes, images, classes)
    hit = everything.argmax(dim=2) == data.labels
    possible = (hit if targeted else ~hit).any(dim=0)
    hit = model(found).argmax(dim=1) == data.labels
    fooled = hit if targeted else ~hit
    assert not bool((fooled & ~possible).any())
    assert int(fooled.sum()) >= 0.8 * int(possible.sum()) > 0


def test_one_pixel_ends_when_the_model_is_fooled() -> None:
    """Of a model that is always wrong the first generation is enough."""
    calls = 0

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return torch.tensor([0.0, 1.0]).expand(len(images), 2)

    perturb("one_pixel", Wrong(), ImageSet(torch.rand(1, 1, 2, 2), torch.tensor([0])), seed=0)
    assert calls <= 4
    calls = 0
    perturb("one_pixel", Wrong(), ImageSet(torch.rand(1, 1, 2, 2), torch.tensor([1])), seed=0)
    assert calls >= 1 + 10


@pytest.mark.parametrize("attack", ATTACKS)
def test_model_and_generators_are_left_alone(cnn: nn.Module, images: ImageSet, attack: str) -> None:
    cnn.train()
    next(cnn.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    frozen = [p.requires_grad for p in cnn.parameters()]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state = torch.get_rng_state()
    few = ImageSet(images.images[:4], images.labels[:4])
    robustness(attack, cnn, few, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.randint(1000) == np.random.RandomState(5).randint(1000)  # noqa: NPY002
    assert all(m.training for m in cnn.modules())
    assert [p.requires_grad for p in cnn.parameters()] == frozen
    assert all(p.grad is None for p in cnn.parameters())
    assert all(torch.equal(value, before[name]) for name, value in cnn.state_dict().items())


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_model_that_draws_noise_gives_the_same_twice(images: ImageSet, attack: str) -> None:
    model = Noisy()
    few = ImageSet(images.images[:6], images.labels[:6])
    assert torch.equal(*(perturb(attack, model, few, seed=3) for _ in range(2)))
    assert robustness(attack, model, few, seed=3) == robustness(attack, model, few, seed=3)


@pytest.mark.parametrize("attack", ATTACKS)
def test_shares_are_those_of_the_adversarial_images(
    cnn: nn.Module, images: ImageSet, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ImageSet(images.images[:10], images.labels[:10])
    following = (few.labels + 1) % 4
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    found = robustness(attack, cnn, few, seed=1, progress=lambda *done: told.append(done))
    untargeted = perturb(attack, cnn, few, seed=1)
    targeted = perturb(attack, cnn, ImageSet(few.images, following), targeted=True, seed=1)
    assert found.accuracy.mean == accuracy(cnn, untargeted, few.labels)
    assert found.targeted.mean == accuracy(cnn, targeted, following)
    assert told == [(done, 20) for done in (4, 8, 10, 14, 18, 20)]


def test_intervals_against_the_closed_form() -> None:
    """A model that always says class 0, on images of class 0: nothing can be done, and there are exact intervals."""
    model = linear(torch.zeros(3, 4))
    model[1].bias = nn.Parameter(torch.tensor([5.0, 0.0, 0.0]))  # type: ignore[index]
    found = robustness(
        "fgsm", model, ImageSet(torch.rand(25, 1, 2, 2), torch.zeros(25, dtype=torch.int64)), seed=0
    )
    assert found.accuracy == pytest.approx((1.0, 0.025 ** (1 / 25), 1.0))
    assert found.targeted == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 25)))
    low, high = stats.beta.ppf([0.025, 0.975], [7, 8], [19, 18])
    assert share_interval(7 / 25, 25) == pytest.approx((7 / 25, low, high))


def test_bad_input(cnn: nn.Module, images: ImageSet) -> None:
    with pytest.raises(ValueError, match="attack must be one of fgsm, pgd, bim, one_pixel, got 'deepfool'"):
        perturb("deepfool", cnn, images, seed=0)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 4\)"):
        robustness("fgsm", cnn, ImageSet(images.images, images.labels + 1), seed=0)


def test_without_the_extra_it_says_what_to_install(
    cnn: nn.Module, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    with pytest.raises(RuntimeError, match=r"pip install 'dpmi\[robustness\]'"):
        perturb("bim", cnn, images, seed=0)
