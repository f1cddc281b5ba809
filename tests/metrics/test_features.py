"""What an evaluator sees, and distances in its features against loops in float64."""

import pytest
import torch
from torch import Tensor, nn

from dpmi import models
from dpmi.metrics import evaluate, feature_distance, knn_distance, neighbors

N, K, SHAPE = 11, 3, (1, 6, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(N, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cnn() -> nn.Module:
    return models.build("cnn-small", image_shape=SHAPE, num_classes=K, seed=1)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_features_are_what_the_head_gets(cnn: nn.Module, images: Tensor, batch_size: int) -> None:
    layers = list(cnn.children())
    with torch.no_grad():
        expected = nn.Sequential(*layers[:-1])(images)
        logits = layers[-1](expected)
    seen = evaluate(cnn, images, batch_size=batch_size)
    torch.testing.assert_close(seen.features, expected)
    torch.testing.assert_close(seen.logits, logits)


def test_the_evaluator_and_the_generators_are_left_alone(images: Tensor) -> None:
    """BatchNorm's statistics would move in training mode, and Dropout would draw."""
    evaluator = nn.Sequential(
        nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 4), nn.Dropout(), nn.Linear(4, K)
    ).train()
    evaluator[4].eval()
    state = {name: value.clone() for name, value in evaluator.state_dict().items()}
    drawn = torch.get_rng_state()
    seen = evaluate(evaluator, images)
    assert not seen.features.requires_grad
    assert [m.training for m in evaluator] == [True, True, True, True, False, True]
    assert all(torch.equal(state[name], value) for name, value in evaluator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert torch.equal(evaluate(evaluator, images).logits, seen.logits)


def test_another_size_goes_behind_a_resize(cnn: nn.Module, images: Tensor) -> None:
    resized = nn.Sequential(nn.Upsample(size=(6, 6), mode="nearest"), cnn)
    coarse = images[..., ::2, ::2]
    repeated = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(evaluate(resized, coarse).features, evaluate(cnn, repeated).features)


def test_images_are_seen_as_they_are(images: Tensor) -> None:
    """Trap 10: neither a min-max rescale nor 8 bits would leave these features."""
    evaluator = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    faint = 0.001 * images
    assert torch.equal(evaluate(evaluator, faint).features, faint.flatten(1))


def test_evaluate_refuses(cnn: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must have pixels in \[0, 1\]"):
        evaluate(cnn, 2 * images)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        evaluate(cnn, images, batch_size=0)
    with torch.no_grad():
        cnn[6].weight.fill_(torch.nan)  # type: ignore[index, union-attr, operator]
    with pytest.raises(ValueError, match="not finite"):
        evaluate(cnn, images)


@pytest.mark.parametrize("chunk", [1, 20, 2**22])
@pytest.mark.parametrize("order", [False, True])
def test_distances_pair_by_pair(chunk: int, order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squared, per reconstruction, class 0 included, and over ALL private images whatever their order (trap 15)."""
    monkeypatch.setattr(neighbors, "_CHUNK", chunk)
    private = 30 + normal(40, 8, seed=1)
    private_labels = torch.arange(40) % K
    if order:
        private_labels = private_labels.sort().values
    recons, labels = 30 + normal(6, 8), torch.tensor([2, 0, 1, 1, 0, 2])
    nearest = knn_distance(recons, labels, private, private_labels)
    centroids = feature_distance(recons, labels, private, private_labels)
    for row, label in enumerate(labels.tolist()):
        own = [(float((recons[row].double() - p.double()).square().sum()), i) for i, p in enumerate(private)]
        best = min(pair for pair in own if int(private_labels[pair[1]]) == label)
        assert (float(nearest.values[row]), int(nearest.nearest[row])) == (
            pytest.approx(best[0], rel=1e-10),
            best[1],
        )
        members = [p.double() for p, c in zip(private, private_labels.tolist(), strict=True) if c == label]
        difference = recons[row].double() - sum(members) / len(members)
        assert float(centroids[row]) == pytest.approx(float(difference.square().sum()), rel=1e-10)
    assert nearest.mean == pytest.approx(float(nearest.values.mean()))


def test_a_copy_is_at_distance_zero() -> None:
    private = 1e3 + normal(5, 16)
    found = knn_distance(private[2:3], torch.tensor([0]), private, torch.zeros(5, dtype=torch.int64))
    assert (found.values.tolist(), found.nearest.tolist()) == ([0.0], [2])


F, L = normal(2, 3), torch.tensor([0, 1])


@pytest.mark.parametrize("measure", [knn_distance, feature_distance])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F, torch.tensor([0, 2]), F, L), "class 2 has no private image"),
        ((F[:0], L[:0], F, L), r"features must be \(n, d\) with n at least 1; got shape \(0, 3\)"),
        ((F, L, F[:, :2], L), "3 and 2 values per image"),
        ((F, L[:1], F, L), r"labels of features must be int64 of shape \(2,\)"),
        ((F, L, F, L.float()), "labels of private_features .* got torch.float32"),
        ((F, L, F * torch.nan, L), "private_features must be finite"),
    ],
)
def test_bad_input(measure: object, arguments: tuple[Tensor, ...], message: str) -> None:
    """Trap 9: what cannot be measured raises, and never counts as near."""
    assert callable(measure)
    with pytest.raises(ValueError, match=message):
        measure(*arguments)
