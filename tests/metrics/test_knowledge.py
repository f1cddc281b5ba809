"""The student's training against a loop by hand; its verdict on recons that say much, little, the wrong thing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpmi import models
from dpmi.data import ImageSet
from dpmi.metrics import accuracy, knowledge_extraction

K, SHAPE = 3, (1, 4, 4)


def bars(count: int, noise: float, seed: int) -> ImageSet:
    """Class k has row k bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % K
    images = noise * torch.rand(count, *SHAPE, generator=generator)
    images[torch.arange(count), 0, labels] += 1 - noise
    return ImageSet(images, labels)


TRAIN, TEST = bars(30, 0.5, 1), bars(12, 0.5, 2)


def student(seed: int = 0) -> nn.Module:
    return models.build("softmax", image_shape=SHAPE, num_classes=K, seed=seed)


def test_recons_that_tell_classes_apart_teach_them() -> None:
    """1 for what looks like the class; 0 for what looks like another; private images never train."""
    recons = bars(9, 0.1, 0)
    good = knowledge_extraction(student(), recons.images, recons.labels, TRAIN, TEST, epochs=20)
    assert (good.train, good.test) == (1.0, 1.0)
    wrong = knowledge_extraction(student(), recons.images, (recons.labels + 1) % K, TRAIN, TEST, epochs=20)
    assert (wrong.train, wrong.test) == (0.0, 0.0)
    equal = knowledge_extraction(
        student(), torch.full((9, *SHAPE), 0.5), recons.labels, TRAIN, TEST, epochs=20
    )
    assert equal.train < 0.7


def test_train_and_test_are_of_their_own_images() -> None:
    recons = bars(9, 0.1, 0)
    other = ImageSet(TEST.images, (TEST.labels + 1) % K)
    found = knowledge_extraction(student(), recons.images, recons.labels, TRAIN, other, epochs=20)
    assert (found.train, found.test) == (1.0, 0.0)


def test_is_sgd_with_momentum_weight_decay_and_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch holds all, so the order does not matter, and the updates can be written down."""
    recons, epochs = bars(6, 0.9, 3), 5
    weights = [p.detach().clone() for p in student().parameters()]
    velocity = [torch.zeros_like(w) for w in weights]
    for step in range(epochs):
        rate = 0.1 * (1 + torch.cos(torch.tensor(torch.pi * step / epochs)).item()) / 2
        leaves = [w.clone().requires_grad_() for w in weights]
        loss = F.cross_entropy(F.linear(recons.images.flatten(1), *leaves), recons.labels)
        for i, gradient in enumerate(torch.autograd.grad(loss, leaves)):
            velocity[i] = 0.9 * velocity[i] + gradient + 1e-4 * weights[i]
            weights[i] = weights[i] - rate * velocity[i]

    tested: list[nn.Module] = []

    def keep(model: nn.Module, images: Tensor, labels: Tensor) -> float:
        tested.append(model)
        return accuracy(model, images, labels)

    monkeypatch.setattr("dpmi.metrics.knowledge.accuracy", keep)
    knowledge_extraction(student(), recons.images, recons.labels, TRAIN, TEST, epochs=epochs, batch_size=100)
    for found, expected in zip(tested[-1].parameters(), weights, strict=True):
        torch.testing.assert_close(found.detach(), expected)


def test_the_seed_decides_and_nothing_else_moves() -> None:
    """Dropout and the order are drawn from the seed; student and generators stay."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, K)).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = torch.get_rng_state()
    recons, hard = bars(7, 0.8, 4), bars(300, 0.95, 5)

    def run(seed: int) -> tuple[float, float]:
        found = knowledge_extraction(
            net, recons.images, recons.labels, hard, TEST, epochs=20, batch_size=2, seed=seed
        )
        return found.train, found.test

    assert run(0) == run(0)
    assert len({run(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not net.training
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


def test_batchnorm_never_gets_a_batch_of_one() -> None:
    """5 reconstructions in batches of 4 would leave one over, which BatchNorm refuses."""
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, K))
    recons = bars(5, 0.1, 0)
    found = knowledge_extraction(net, recons.images, recons.labels, TRAIN, TEST, epochs=1, batch_size=4)
    assert 0 <= found.train <= 1


def test_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpmi.metrics.knowledge._train", lambda *_, **__: pytest.fail("trained"))
    images, labels = TRAIN.images, TRAIN.labels
    for arguments, message in (
        ((images, labels[:3], TRAIN, TEST), "labels of recons"),
        ((images * 2, labels, TRAIN, TEST), r"recons must have pixels in \[0, 1\]"),
        ((images, labels + 1, TRAIN, TEST), r"labels must be in \[0, 3\).* got 1 to 3"),
        ((images, labels, ImageSet(images, labels + 1), TEST), "got 1 to 3"),
        ((images, labels, TRAIN, ImageSet(TEST.images, TEST.labels + 1)), "got 1 to 3"),
    ):
        with pytest.raises(ValueError, match=message):
            knowledge_extraction(student(), *arguments)
    with pytest.raises(ValueError, match="epochs must be at least 1; got 0"):
        knowledge_extraction(student(), images, labels, TRAIN, TEST, epochs=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        knowledge_extraction(student(), images, labels, TRAIN, TEST, batch_size=0)
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        knowledge_extraction(student(), images, labels, TRAIN, TEST, learning_rate=0.0)


def test_a_student_that_diverges_says_so() -> None:
    """Trap 9: no score rather than that of a broken student."""
    with pytest.raises(FloatingPointError, match=r"lower learning_rate \(1e\+30\)"):
        knowledge_extraction(student(), TRAIN.images, TRAIN.labels, TRAIN, TEST, epochs=9, learning_rate=1e30)
