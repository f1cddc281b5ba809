"""Fisher information per layer against closed forms, and against a loop over records in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi import models
from dpmi.metrics import classification_information, fisher, inversion_information

N, K, SHAPE = 9, 3, (1, 4, 4)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.arange(N) % K


@pytest.fixture
def cnn() -> nn.Module:
    return models.build("cnn-small", image_shape=SHAPE, num_classes=K, seed=1)


def squares(model: nn.Module, losses: list[Tensor]) -> dict[str, float]:
    """Mean over records and over a layer's parameters, gradient by gradient."""
    parameters = dict(model.named_parameters())
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            found[name] += 0 if gradient is None else gradient**2 / len(losses)
    return {
        layer: float(torch.cat([found[f"{layer}.weight"].flatten(), found[f"{layer}.bias"]]).mean())
        for layer in dict.fromkeys(name.split(".")[0] for name in parameters)
    }


def test_classification_by_softmax_regression_has_a_closed_form(images: Tensor, labels: Tensor) -> None:
    """The gradient is (p - e_y)(x, 1)', whose squares add up to |p - e_y|^2 (|x|^2 + 1)."""
    model = models.build("softmax", image_shape=SHAPE, num_classes=K, seed=0)
    residual = model(images).softmax(dim=1) - F.one_hot(labels, K)
    norms = images.flatten(1).square().sum(dim=1) + 1
    expected = float((residual.square().sum(dim=1) * norms).mean().detach()) / (K * 17)
    assert classification_information(model, images, labels) == {"1": pytest.approx(expected, rel=1e-5)}


def test_inversion_of_linear_features_has_a_closed_form(images: Tensor, labels: Tensor) -> None:
    """A distance has a gradient of length 1: wherever the private images are, squares add up to |x|^2 + 1."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, K))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(generator=generator)
    private = torch.rand(30, *SHAPE, generator=generator)
    found = inversion_information(model, images, labels, private, torch.arange(30) % K)
    expected = float((images.flatten(1).square().sum(dim=1) + 1).mean()) / (5 * 17)
    assert found == {"1": pytest.approx(expected, rel=1e-5), "2": 0.0}


@pytest.mark.parametrize("together", [1, 4, 1000])
def test_a_network_record_by_record(
    cnn: nn.Module, images: Tensor, labels: Tensor, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tasks, with chunks that divide the records and that do not."""
    monkeypatch.setattr(fisher, "_CHUNK", together * sum(p.numel() for p in cnn.parameters()))
    exact = models.build("cnn-small", image_shape=SHAPE, num_classes=K, seed=1).double()
    wide = images.double()
    loss = F.cross_entropy(exact(wide), labels, reduction="none")
    found = classification_information(cnn, images, labels)
    assert found == pytest.approx(squares(exact, list(loss)), rel=1e-4)
    assert list(found) == ["0", "2", "6", "8"]

    recons, own = images.flip(3)[:4], torch.tensor([0, 2, 1, 2])
    features = nn.Sequential(*list(exact)[:-1])  # type: ignore[call-overload]
    with torch.no_grad():
        centroids = torch.stack([features(wide[labels == k]).mean(dim=0) for k in range(K)])
    distances = (features(recons.double()) - centroids[own]).norm(dim=1)
    expected = squares(exact, list(distances))
    assert inversion_information(cnn, recons, own, images, labels) == pytest.approx(expected, rel=1e-4)
    assert expected["8"] == 0


def test_the_model_and_the_generators_are_left_alone(cnn: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Dropout is off, and what a model draws in spite of that has a seed."""

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    model = nn.Sequential(*cnn[:-1], nn.Dropout(0.5), Noisy(), cnn[-1]).train()  # type: ignore[index, misc]
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    reports: list[tuple[int, int]] = []
    found = classification_information(
        model, images, labels, seed=1, progress=lambda *now: reports.append(now)
    )
    assert found == classification_information(model, images, labels, seed=1)
    assert found != classification_information(model, images, labels, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert reports == [(N, N)]


def test_a_reconstruction_at_the_centroid_has_no_gradient(
    cnn: nn.Module, images: Tensor, labels: Tensor
) -> None:
    one = images[:1]
    found = inversion_information(cnn, one, labels[:1], one, labels[:1])
    assert set(found.values()) == {0.0}


def test_bad_input(cnn: nn.Module, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match="got 9 images and 8 labels"):
        classification_information(cnn, images, labels[:8])
    with pytest.raises(ValueError, match="got 0 images"):
        classification_information(cnn, images[:0], labels[:0])
    with pytest.raises(ValueError, match="there is no image of class 2"):
        inversion_information(cnn, images, labels, images[:2], labels[:2])
