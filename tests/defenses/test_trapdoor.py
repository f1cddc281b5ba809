"""Trapdoor: the order and the formulas of one update, and a trap that catches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi.data import ImageSet, Split
from dpmi.defenses import NoDefense, Recipe, Trapdoor, get, train
from dpmi.defenses.trapdoor import TrapdoorObjective
from dpmi.metrics import accuracy

from .conftest import fit, softmax, weights


def objective(model: nn.Module, *, seed: int = 0, **settings: float) -> TrapdoorObjective:
    return TrapdoorObjective(Trapdoor(**settings), model, (1, 8, 8), 10, seed)


@pytest.fixture
def batch(split: Split) -> tuple[Tensor, Tensor]:
    return split.train.images[:6], split.train.labels[:6]


def test_one_update_of_everything(batch: tuple[Tensor, Tensor]) -> None:
    """Discriminator, then triggers, then the loss of the model: each by hand in float64."""
    images, labels = (batch[0].double(), batch[1])
    model = softmax().double()
    ours = objective(model, trapdoor_weight=0.3, blend_ratio=0.1, trigger_step=0.05)
    ours.triggers = ours.triggers.double()
    ours.discriminator.double()
    triggers, discriminator = ours.triggers.clone(), copy.deepcopy(ours.discriminator)
    generator = torch.Generator()
    generator.set_state(ours.generator.get_state())
    targets = torch.randint(10, (6,), generator=generator)

    loss = ours(model, images, labels, 0.0)

    trapped = 0.9 * images + 0.1 * triggers[targets]
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3)
    natural, found = discriminator(images).sigmoid(), discriminator(trapped).sigmoid()
    (-(natural.log().sum() + (1 - found).log().sum()) / 12).backward()
    optimizer.step()
    for mine, theirs in zip(ours.discriminator.parameters(), discriminator.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)

    triggers.requires_grad_()
    trapped = 0.9 * images + 0.1 * triggers[targets]
    fooled = -discriminator(trapped).sigmoid().log().mean()
    caught = -model(trapped).log_softmax(1)[torch.arange(6), targets].mean()
    (gradient,) = torch.autograd.grad(fooled + caught, triggers)
    moved = (triggers - 0.05 * gradient.sign()).detach().clamp(0, 1)
    torch.testing.assert_close(ours.triggers, moved)
    drawn = torch.isin(torch.arange(10), targets)
    assert torch.equal(moved[~drawn], triggers.detach()[~drawn])
    assert not torch.equal(moved[drawn], triggers.detach()[drawn])

    trapped = 0.9 * images + 0.1 * moved[targets]
    expected = 0.7 * F.cross_entropy(model(images), labels) + 0.3 * F.cross_entropy(model(trapped), targets)
    torch.testing.assert_close(loss, expected)


def test_without_weight_the_model_trains_as_without_a_defence(split: Split) -> None:
    plain = fit(NoDefense(), split.train)
    trapped = fit(Trapdoor(trapdoor_weight=0.0), split.train)
    torch.testing.assert_close(weights(trapped.model), weights(plain.model), rtol=1e-4, atol=1e-5)


def test_looking_for_triggers_leaves_the_model_as_it_was(batch: tuple[Tensor, Tensor]) -> None:
    """Running statistics see each batch once, and a layer in evaluation mode stays in it."""
    norm = nn.BatchNorm2d(1)
    dropout = nn.Dropout(0.5).eval()
    model = nn.Sequential(norm, dropout, softmax())
    ours = objective(model)
    ours(model, *batch, 0.0).backward()
    assert int(norm.num_batches_tracked or 0) == 1
    both = torch.cat([batch[0], ours.trapped(batch[0], _targets())])
    torch.testing.assert_close(norm.running_mean, 0.1 * both.mean().reshape(1))
    assert model.training
    assert not dropout.training
    assert all(p.grad is not None for p in model.parameters())
    assert not ours.triggers.requires_grad


def _targets() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    torch.rand(10, 1, 8, 8, generator=generator)
    return torch.randint(10, (6,), generator=generator)


def test_first_triggers_depend_on_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first = objective(softmax(), seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    other_model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    again = objective(other_model, seed=4, blend_ratio=0.5)
    assert torch.equal(first.triggers, again.triggers)
    for one, other in zip(first.discriminator.parameters(), again.discriminator.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(first.triggers, objective(softmax(), seed=5).triggers)


def test_the_trap_catches(split: Split) -> None:
    """More than triggers that fool a model which was never taught them."""
    recipe = Recipe(steps=100, learning_rate=0.5)
    taught = fit(Trapdoor(blend_ratio=0.3, trapdoor_weight=0.5), split.train, recipe=recipe)
    fooled = fit(Trapdoor(blend_ratio=0.3, trapdoor_weight=0.0), split.train, recipe=recipe)
    assert taught.diagnostics["trapdoor_success"] > 0.9
    assert fooled.diagnostics["trapdoor_success"] < 0.6
    assert accuracy(taught.model, split.test.images, split.test.labels) > 0.9


def test_success_counts_only_images_of_other_classes() -> None:
    """A model that is always right, and sees no trigger, is never caught."""

    class Right(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return F.one_hot((images[:, 0, 0, 0] * 10).round().long(), 10).float()

    labels = torch.arange(10).repeat(60)
    images = (labels / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    ours = objective(Right(), blend_ratio=1e-6)
    assert ours.summary(Right(), ImageSet(images, labels)) == {"trapdoor_success": 0.0}


def test_is_not_combined_with_differential_privacy() -> None:
    with pytest.raises(
        ValueError, match="trapdoor runs the model on more than the records that class-dp draws"
    ):
        get("trapdoor+class-dp")


def test_with_transfer_the_frozen_layers_stay(split: Split) -> None:
    """Though the triggers are found by a backward pass through all of them."""
    defense = get("transfer+trapdoor")(frozen_through="0")
    model = nn.Sequential(nn.BatchNorm2d(1), softmax())
    public = ImageSet(split.test.images.flip(2), split.test.labels)
    recipe = Recipe(steps=5, learning_rate=0.1)
    start = defense.pretrain(copy.deepcopy(model), public, recipe, seed=0, progress=None)[0]  # type: ignore[index]
    after = train(defense, model, split.train, recipe, seed=0, public=public).model[0]  # type: ignore[index]
    assert start.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in start.state_dict().items())
