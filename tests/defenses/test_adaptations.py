"""How each defence is searched by somebody who knows it.

Modules: dpmi/defenses/base.py, dpmi/defenses/calor.py, dpmi/defenses/label_smoothing.py, dpmi/defenses/mid.py,
dpmi/defenses/none.py, dpmi/defenses/transfer.py.
"""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from dpmi import models
from dpmi.defenses import (
    MID,
    CALoR,
    Defense,
    LabelSmoothing,
    NoDefense,
    RecordDP,
    Transfer,
    VariationalBottleneck,
    compose,
)
from dpmi.defenses.calor import distance_from_confidence
from dpmi.defenses.transfer import EARLY_WEIGHT
from dpmi.models import IDENTITY_LOSSES, Adaptation, observe

COUNT = 200
IMAGES = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def cnn() -> nn.Module:
    return models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=0)


def named(defense: Defense, name: str) -> Adaptation:
    (found,) = (adaptation for adaptation in defense.adaptations() if adaptation.name == name)
    return found


def stand_in(defense: Defense, name: str, model: nn.Module) -> nn.Module:
    """What is searched; the released model must stay what it was."""
    before = deepcopy(model.state_dict())
    make = named(defense, name).stand_in
    assert make is not None
    found = make(model, IMAGES).eval()
    assert repr(deepcopy(model)) == repr(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    return found


@pytest.mark.parametrize(
    ("defense", "names"),
    [
        (NoDefense(), ["logit loss"]),
        (RecordDP(noise_multiplier=1.0, sampling_rate=0.1, max_grad_norm=1.0), ["logit loss"]),
        (MID(beta=0.1), ["logit loss", "averaged noise", "mean forward"]),
        (MID(beta=0.1, evaluation="mean"), ["logit loss"]),
        (CALoR(rank=4), ["logit loss", "no Tanh", "linear head", "matched confidence"]),
        (CALoR(rank=None, bounded=False), ["logit loss", "matched confidence"]),
        (CALoR(rank=4, bounded=False, adapted=False), ["logit loss", "linear head"]),
        (LabelSmoothing(alpha=-0.1), ["logit loss", "poincare loss", "margin loss"]),
        (LabelSmoothing(alpha=0.1), ["logit loss"]),
        (Transfer(frozen_fraction=0.5), ["logit loss", "early layers"]),
        (Transfer(frozen_fraction=0.0), ["logit loss"]),
        (
            compose(Transfer(frozen_fraction=0.5), MID(beta=0.1)),
            ["logit loss", "early layers", "averaged noise", "mean forward"],
        ),
    ],
)
def test_what_is_hidden_is_searched_otherwise(defense: Defense, names: list[str]) -> None:
    assert [adaptation.name for adaptation in defense.adaptations()] == names


def test_mid_without_noise_returns_the_mean() -> None:
    defense = MID(beta=0.1)
    model = defense.build(cnn()).eval()
    found = stand_in(defense, "mean forward", model)
    assert not torch.equal(model(IMAGES), model(IMAGES))
    quiet = deepcopy(model)
    for module in quiet.modules():
        if isinstance(module, VariationalBottleneck):
            module.evaluation = "mean"
    assert torch.equal(found(IMAGES), quiet(IMAGES))
    assert torch.equal(found(IMAGES), found(IMAGES))


def test_calor_without_tanh_multiplies_its_two_matrices() -> None:
    defense = CALoR(rank=4)
    model = defense.build(cnn()).eval()
    with observe(model, ["8.compression"]) as seen:
        model(IMAGES)
    classifier = model.get_submodule("8.classifier")
    expected = classifier(seen["8.compression"])
    torch.testing.assert_close(stand_in(defense, "no Tanh", model)(IMAGES), expected)


def test_linear_head_finds_a_head_that_is_linear() -> None:
    """Without a Tanh, two linear layers are one, and any images show which."""
    defense = CALoR(rank=4, bounded=False)
    model = defense.build(cnn()).eval()
    fresh = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(
        stand_in(defense, "linear head", model)(fresh), model(fresh), atol=1e-4, rtol=0
    )


def test_linear_head_is_nearest_on_public_images() -> None:
    defense = CALoR(rank=4)
    model = defense.build(cnn()).eval()
    found = stand_in(defense, "linear head", model)
    gap = (found(IMAGES) - model(IMAGES)).square().mean()
    constant = (model(IMAGES).mean(dim=0) - model(IMAGES)).square().mean()
    assert gap < constant


@pytest.mark.parametrize("aim", [0.3, math.exp(-1 / 8)])
def test_distance_from_confidence_is_a_coins_cross_entropy(aim: float) -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    others = torch.stack([0.25 * (1 - p), 0.75 * (1 - p)])
    logits = torch.stack([others[0], p, others[1]]).T.log() + 2.5
    found = distance_from_confidence(logits, torch.ones(99, dtype=torch.int64), aim=aim)
    torch.testing.assert_close(found, -(aim * p.log() + (1 - aim) * (1 - p).log()))
    assert abs(float(p[found.argmin()]) - aim) < 0.006
    # Unlike the loss that it is matched to, it pulls from far away too.
    sure_of_another = torch.tensor([[0.0, 40.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(
        distance_from_confidence(sure_of_another, torch.tensor([0]), aim=aim), sure_of_another
    )
    assert gradient.abs().max() > 0.9 * aim


def test_label_smoothing_is_met_by_losses_that_do_not_vanish() -> None:
    for name in ("logit", "poincare", "margin"):
        assert named(LabelSmoothing(alpha=-0.1), f"{name} loss").loss is IDENTITY_LOSSES[name]


def test_early_layers_against_the_moments_of_public_images() -> None:
    defense, model = Transfer(frozen_fraction=0.01), cnn().eval()
    penalty = named(defense, "early layers").penalty
    assert penalty is not None
    assert isinstance(model, nn.Sequential)
    frozen = model[: len(defense.frozen(model))]

    def moments(images: Tensor) -> Tensor:
        maps = frozen(images).double().flatten(2)
        return torch.cat([maps.mean(dim=2), maps.var(dim=2).sqrt()], dim=1)

    usual = moments(IMAGES)
    away = (moments(IMAGES[:4]) - usual.mean(dim=0)) / usual.var(dim=0).sqrt()
    expected = EARLY_WEIGHT * (away**2).mean(dim=1)
    found = penalty(model, IMAGES)
    torch.testing.assert_close(found(IMAGES[:4]).double(), expected, atol=1e-5, rtol=1e-3)
    # In units of the public images' own spread: about 1 for any of them, far more for something else.
    assert float(found(IMAGES).detach().mean()) == pytest.approx(EARLY_WEIGHT * (COUNT - 1) / COUNT, rel=1e-3)
    assert float(found(torch.zeros(1, 1, 8, 8)).detach()) > 10 * EARLY_WEIGHT


def test_early_layers_of_one_position_have_no_deviation() -> None:
    """MCNN's last convolution leaves one; NaN would end every search at its first step."""
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 10)).eval()
    defense = Transfer(frozen_fraction=1.0)
    assert defense.frozen(model) == ("0",)
    penalty = named(defense, "early layers").penalty
    assert penalty is not None
    means = model[0](IMAGES).detach().flatten(1)
    expected = EARLY_WEIGHT * ((means - means.mean(dim=0)) / means.std(dim=0)).square().mean(dim=1)
    torch.testing.assert_close(penalty(model, IMAGES)(IMAGES).detach(), expected, atol=1e-5, rtol=1e-3)
