"""CALoR: the confidence adaptation loss in closed form, the head, and the two stages."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dpmi import models
from dpmi.data import Split
from dpmi.defenses import Batch, CALoR, CompressedHead, NoDefense, Recipe
from dpmi.metrics import accuracy

from .conftest import fit, softmax


def cnn(seed: int = 0) -> nn.Module:
    return models.build("cnn-small", image_shape=(1, 8, 8), num_classes=10, seed=seed)


def adaptation(logits: Tensor, labels: Tensor, a: float = 1.0, b: float = 8.0) -> Tensor:
    defense = CALoR(rank=None, loss_scale=a, loss_exponent=b)
    return defense.criterion(Batch(torch.zeros(len(labels), 1, 1, 1), labels, logits, {}, 0.0))


def logits_of(confidence: Tensor, classes: int = 4) -> Tensor:
    """Class 0 has this confidence; the others share the rest equally."""
    others = ((1 - confidence) / (classes - 1)).log()[:, None].expand(-1, classes - 1)
    return torch.cat([confidence.log()[:, None], others], dim=1).requires_grad_()


@pytest.mark.parametrize(("a", "b"), [(1.0, 8.0), (2.5, 3.0)])
def test_loss_and_its_gradient_in_closed_form(a: float, b: float) -> None:
    """d/dl_k = a p^b (b ln p + 1) (1[k = y] - p_k)."""
    p = torch.tensor([1e-3, 0.1, 0.5, 0.8, 0.95, 0.999], dtype=torch.float64)
    logits = logits_of(p)
    labels = torch.zeros(6, dtype=torch.int64)
    loss = adaptation(logits, labels, a, b)
    torch.testing.assert_close(loss, a * p**b * p.log())
    assert (loss < 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    one_hot = torch.eye(4, dtype=torch.float64)[0]
    expected = (a * p**b * (b * p.log() + 1))[:, None] * (one_hot - logits.softmax(dim=1))
    torch.testing.assert_close(gradient, expected.detach())


@pytest.mark.parametrize("b", [0.5, 8.0, 40.0])
def test_least_at_the_confidence_that_appendix_b_derives(b: float) -> None:
    best = math.exp(-1 / b)
    grid = torch.linspace(0.001, 0.9999, 5000, dtype=torch.float64)
    losses = adaptation(logits_of(grid), torch.zeros(5000, dtype=torch.int64), b=b)
    assert float(grid[losses.argmin()]) == pytest.approx(best, abs=3e-4)
    at_best = logits_of(torch.tensor([best], dtype=torch.float64))
    loss = adaptation(at_best, torch.tensor([0]), b=b)
    assert float(loss.detach()) == pytest.approx(-1 / (b * math.e))
    (gradient,) = torch.autograd.grad(loss.sum(), at_best)
    assert float(gradient.abs().max()) < 1e-12


def test_gradient_vanishes_without_nan_where_confidence_does() -> None:
    """In float32, down to a confidence that float32 cannot hold."""
    logits = torch.tensor([[-5.0, 0], [-20, 0], [-90, 0], [-1e4, 0], [1e4, 0]]).requires_grad_()
    loss = adaptation(logits, torch.zeros(5, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    lengths = gradient.norm(dim=1)
    assert 0 < float(lengths[0]) < 1e-12
    assert lengths[2:].tolist() == [0, 0, 0]


def test_head_is_the_papers() -> None:
    model = CALoR(rank=7).build(cnn())
    head = model[-1]
    assert isinstance(head, CompressedHead)
    assert [type(layer) for layer in head] == [nn.Linear, nn.Tanh, nn.Linear]
    assert (head[0].weight.shape, head[2].weight.shape) == ((7, 64), (10, 7))


def test_without_tanh_the_logits_have_the_rank() -> None:
    """W = W_A W_B of section 3.3: differences of logits span no more than r dimensions."""
    features = torch.rand(50, 64, dtype=torch.float64)
    for rank in (1, 4):
        head = CALoR(rank=rank, bounded=False).build(softmax().double())[1]
        assert [type(layer) for layer in head] == [nn.Linear, nn.Linear]
        logits = head(features)
        assert int(torch.linalg.matrix_rank(logits - logits[0])) == rank


def test_tanh_alone_keeps_the_head() -> None:
    model, images = cnn().eval(), torch.rand(5, 1, 8, 8)
    features, own = model[:-1](images), model[-1]
    built = CALoR(rank=None, adapted=False).build(model)
    torch.testing.assert_close(built(images), own(features.tanh()))
    assert built[-1].classifier is own


def test_confidence_alone_keeps_the_model() -> None:
    model = cnn()
    before = list(model)
    assert list(CALoR(rank=None, bounded=False).build(model)) == before


def test_stages() -> None:
    defense = CALoR(rank=7, adapted_share=0.3)
    (first, some), (second, rest) = defense.stages
    assert first == CALoR(rank=7, adapted=False, adapted_share=0.3)
    assert second is defense
    assert (some, rest) == (0.7, 0.3)
    assert first.stages == ((first, 1.0),)


@pytest.mark.slow
def test_every_part_alone_learns_and_adaptation_lowers_confidence(split: Split) -> None:
    recipe = Recipe(steps=300, learning_rate=0.1)
    plain = fit(NoDefense(), split.train, model=cnn(), recipe=recipe).model
    expected = accuracy(plain, split.test.images, split.test.labels)
    found = {}
    for defense in (
        CALoR(rank=8, loss_scale=1.0, adapted_share=0.5),
        CALoR(rank=8, adapted=False),
        CALoR(rank=None, bounded=False, loss_scale=1.0, adapted_share=0.5),
        CALoR(rank=None, adapted=False),
    ):
        trained = fit(defense, split.train, model=cnn(), recipe=recipe)
        found[defense.label] = trained.diagnostics["private_confidence"]
        assert accuracy(trained.model, split.test.images, split.test.labels) > expected - 0.03
    # Around exp(-1 / 8) = 0.88, and records that the second stage gives up lower the mean.
    assert 0.78 < found["calor, rank 8"] < 0.91
    assert 0.78 < found["calor, no compression, no Tanh"] < 0.91
    assert found["calor, rank 8, no adaptation"] > 0.95
    assert found["calor, no compression, no adaptation"] > 0.95


def test_adaptation_from_the_start_does_not_learn(split: Split) -> None:
    """Why there are two stages."""
    recipe = Recipe(steps=200, learning_rate=0.1)
    model = fit(CALoR(rank=8, adapted_share=0.999), split.train, model=cnn(), recipe=recipe).model
    assert accuracy(model, split.test.images, split.test.labels) < 0.3


def test_rank_above_the_features_is_refused(split: Split) -> None:
    with pytest.raises(ValueError, match="rank must be at most 64, the features of the model, got 65"):
        fit(CALoR(rank=65), split.train)


def test_labels_tell_ablations_apart() -> None:
    assert CALoR(rank=8).label == "calor, rank 8"
    assert CALoR(rank=8, bounded=False, adapted=False).label == "calor, rank 8, no Tanh, no adaptation"
    assert math.isnan(CALoR(rank=None).strength)
