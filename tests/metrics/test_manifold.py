"""Precision, recall, density and coverage against loops over pairs in float64."""

import math

import pytest
import torch
from torch import Tensor

from dpmi.metrics import balls, manifold, manifolds, neighbors


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm())


def radii(own: Tensor, k: int) -> list[float]:
    return [
        sorted(distance(p, o) for j, o in enumerate(own) if j != i)[k - 1] if len(own) > k else math.nan
        for i, p in enumerate(own)
    ]


def brute_force(recons: Tensor, private: Tensor, k: int) -> dict[str, float]:
    """The papers' equations, pair by pair."""
    balls, own = radii(private, k), radii(recons, k)
    inside = [[distance(r, p) <= ball for p, ball in zip(private, balls, strict=True)] for r in recons]
    scores = {
        "precision": sum(any(row) for row in inside) / len(recons),
        "density": sum(sum(row) for row in inside) / (k * len(recons)),
        "coverage": sum(any(column) for column in zip(*inside, strict=True)) / len(private),
    }
    reached = [any(distance(p, r) <= ball for r, ball in zip(recons, own, strict=True)) for p in private]
    return {**scores, "recall": sum(reached) / len(private) if len(recons) > k else math.nan}


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("chunk", [1, 60, 2**22])
def test_is_that_of_loops_in_every_class(k: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class 0 as every other: a peer leaves it out, because its label is false."""
    for module in (manifold, neighbors):
        monkeypatch.setattr(module, "PAIRS", chunk)
    private, private_labels = 5 + normal(60, 3, seed=0), torch.arange(60) % 3
    recons, labels = 5.9 + 1.5 * normal(45, 3, seed=1), torch.arange(45) % 3
    found = manifolds(recons, labels, private, private_labels, k=k)
    assert found.classes.tolist() == [0, 1, 2]
    expected = [
        brute_force(recons[labels == label], private[private_labels == label], k) for label in range(3)
    ]
    for name in ("precision", "recall", "density", "coverage"):
        values = [scores[name] for scores in expected]
        assert getattr(found, name).tolist() == pytest.approx(values)
        assert found.means()[name] == pytest.approx(sum(values) / 3)
        assert len(set(values)) > 1  # what leaves a class out is told


def test_copies_and_strangers() -> None:
    private, labels = normal(12, 4, seed=2), torch.zeros(12, dtype=torch.int64)
    copies = manifolds(private, labels, private, labels).means()
    assert (copies["precision"], copies["recall"], copies["coverage"]) == (1.0, 1.0, 1.0)
    far = manifolds(private + 1e3, labels, private, labels).means()
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_a_copy_among_duplicates_is_inside_a_ball_of_no_width() -> None:
    """Rounding of the product must not push it out."""
    private = (100 + normal(1, 50, seed=3)).repeat(5, 1)
    private = torch.cat([private, 100 + 3 * normal(3, 50, seed=4)])
    found = manifolds(private[:1], torch.tensor([0]), private, torch.zeros(8, dtype=torch.int64), k=3)
    expected = brute_force(private[:1], private, 3)
    assert expected["density"] >= 5 / 3
    assert found.means() == pytest.approx(expected, nan_ok=True)


def test_one_outlier_raises_precision_and_not_coverage() -> None:
    """What density and coverage are for [Naeem et al., figure 3]."""
    private = torch.cat([normal(30, 2, seed=5), torch.tensor([[50.0, 0.0]])])
    recons = torch.tensor([[25.0, 0.0]]).repeat(10, 1)
    labels = torch.zeros(31, dtype=torch.int64)
    found = manifolds(recons, labels[:10], private, labels).means()
    assert found["precision"] == 1.0
    assert found["density"] == pytest.approx(1 / 3)
    assert found["coverage"] == pytest.approx(1 / 31)


def test_too_few_images_are_undefined_and_left_out_of_the_mean() -> None:
    private = torch.arange(9.0)[:, None]
    private_labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    found = manifolds(torch.tensor([[1.0], [5.0]]), torch.tensor([0, 1]), private, private_labels)
    assert math.isnan(found.precision[0])
    assert math.isnan(found.density[0])
    assert math.isnan(found.coverage[0])
    assert (found.precision[1], found.means()["precision"]) == (1.0, 1.0)
    assert bool(found.recall.isnan().all())  # one reconstruction has no neighbours
    assert math.isnan(found.means()["recall"])


def test_bad_input() -> None:
    features, labels = normal(4, 2, seed=0), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        manifolds(features, labels, features, labels, k=0)
    with pytest.raises(ValueError, match="class 1 has no private image"):
        manifolds(features, labels + 1, features, labels)
    with pytest.raises(ValueError, match="features must be finite"):
        manifolds(features * math.nan, labels, features, labels)


def test_balls_found_once_serve_many_calls() -> None:
    private, private_labels = normal(40, 3, seed=0), torch.arange(40) % 4
    private_labels[private_labels == 3] = 2
    private, private_labels = (
        torch.cat([private, private[:2]]),
        torch.cat([private_labels, torch.tensor([3, 3])]),
    )
    recons, labels = normal(20, 3, seed=1), torch.arange(20) % 4
    known = balls(private, private_labels)
    assert bool(known[private_labels == 3].isnan().all())
    for index in (0, 17):
        others = private[private_labels == private_labels[index]]
        distances = (others - private[index]).double().square().sum(dim=1).sort().values
        assert float(known[index]) == pytest.approx(float(distances[3]))
    once = manifolds(recons, labels, private, private_labels, private_balls=known)
    anew = manifolds(recons, labels, private, private_labels)
    for name in ("precision", "recall", "density", "coverage"):
        assert torch.equal(getattr(once, name).nan_to_num(-1), getattr(anew, name).nan_to_num(-1))
