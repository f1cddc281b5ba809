"""Linkage and identification against loops and dense matrices; their chance levels are exact."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpmi.data.public_gaussian import PublicGaussian
from dpmi.metrics import (
    SCORERS,
    candidate_distances,
    distances_among_classes,
    identification,
    linkage,
    mia_distance,
)

Array = npt.NDArray[np.float64]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


#: Classes 0 to 6; 9 images of each, mixed.
IMAGES = noise(63, 1, 4, 4, seed=1)
CLASS = torch.arange(63)[torch.randperm(63, generator=torch.Generator().manual_seed(2))] % 7
PUBLIC = noise(60, 1, 4, 4, seed=3)
#: Three classes, with one to three images, not in order.
RECONS = noise(6, 1, 4, 4, seed=4)
LABELS = torch.tensor([5, 1, 5, 2, 1, 5])
DECOYS = (4, 0)


def distances(scorer: str = "mia", **changes: object) -> Tensor:
    inputs = {
        "recons": RECONS,
        "labels": LABELS,
        "images": IMAGES,
        "image_labels": CLASS,
        "decoys": DECOYS,
        "public": PUBLIC,
        "scorer": scorer,
        **changes,
    }
    return candidate_distances(**inputs)


class TestLinkage:
    @given(
        rows=st.integers(1, 5),
        decoys=st.integers(1, 6),
        values=st.integers(1, 4),
        seed=st.integers(0, 2**32),
    )
    @settings(max_examples=60, deadline=None)
    def test_is_the_rank_of_the_first_column(self, rows: int, decoys: int, values: int, seed: int) -> None:
        """Few different values, so that many are equal."""
        table = np.random.default_rng(seed).integers(0, values, (rows, 1 + decoys)).astype(float)
        found = linkage(torch.from_numpy(table))
        for (own, *others), top1, auc in zip(table, found.top1, found.auc, strict=True):
            nearest = [d for d in (own, *others) if d == min(own, *others)]
            assert top1 == (1 / len(nearest) if own in nearest else 0)
            assert auc == pytest.approx(
                np.mean([1.0 if d > own else 0.5 if d == own else 0.0 for d in others])
            )

    @given(candidates=st.integers(2, 6), values=st.integers(1, 4), seed=st.integers(0, 2**32))
    @settings(max_examples=60, deadline=None)
    def test_of_a_random_candidate_is_chance(self, candidates: int, values: int, seed: int) -> None:
        """Whatever the distances: if each candidate is the true class once, the means are 1/K and 1/2."""
        row = np.random.default_rng(seed).integers(0, values, candidates).astype(float)
        table = [[row[true], *np.delete(row, true)] for true in range(candidates)]
        found = linkage(torch.tensor(table))
        assert found.top1.mean().item() == pytest.approx(1 / candidates)
        assert found.auc.mean().item() == pytest.approx(1 / 2)

    def test_examples(self) -> None:
        table = torch.tensor([[1, 2, 3], [2, 1, 3], [3, 1, 2], [1, 1, 1], [2, 2, 1], [1, 1, 2]])
        found = linkage(table.float())
        assert found.top1.dtype == found.auc.dtype == torch.float64
        assert found.top1.tolist() == [1, 0, 0, pytest.approx(1 / 3), 0, 0.5]
        assert found.auc.tolist() == [1, 0.5, 0, 0.5, 0.25, 0.75]

    @pytest.mark.parametrize(
        "wrong", [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2, 2), torch.tensor([[0.0, torch.nan]])]
    )
    def test_refuses(self, wrong: Tensor) -> None:
        message = (
            rf"distances must be numbers \(C, 1 \+ Q\).*got shape \({', '.join(map(str, wrong.shape))},?\)"
        )
        with pytest.raises(ValueError, match=message):
            linkage(wrong)


class TestMia:
    @pytest.mark.parametrize("kind", ["euclidean", "ssim"])
    def test_is_the_mia_distance_of_every_candidate(self, kind: str) -> None:
        images, recons = noise(63, 1, 12, 12, seed=1), noise(6, 1, 12, 12, seed=4)
        found = distances(images=images, recons=recons, kind=kind)
        assert found.dtype == torch.float64
        for row, label in zip(found, [1, 2, 5], strict=True):
            own = recons[label == LABELS]
            for distance, candidate in zip(row, [label, *DECOYS], strict=True):
                expected = mia_distance(
                    own, torch.full((len(own),), candidate), images, CLASS, kind=kind
                ).mean
                assert distance.item() == pytest.approx(expected)

    def test_is_euclidean_by_default_and_needs_no_public_images(self) -> None:
        found = distances(public=torch.zeros(0, 1, 4, 4))
        nearest = [
            np.mean(
                [
                    min(
                        np.linalg.norm(recon - image) for image in IMAGES[candidate == CLASS].double().numpy()
                    )
                    for recon in RECONS[label == LABELS].double().numpy().reshape(-1, 1, 4, 4)
                ]
            )
            for label in (1, 2, 5)
            for candidate in (label, *DECOYS)
        ]
        np.testing.assert_allclose(found.flatten(), nearest, rtol=1e-6)

    def test_compares_at_most_a_hundred_images_evenly_spaced(self) -> None:
        images, classes = noise(700, 1, 4, 4, seed=5), torch.arange(700) % 2 + 4
        few = torch.tensor([round(349 * place / 99) for place in range(100)])
        labels, recons = torch.tensor([4, 6]), RECONS[:2]
        images, classes = torch.cat([images, IMAGES[:3]]), torch.cat([classes, torch.tensor([6, 6, 6])])
        found = distances(recons=recons, labels=labels, images=images, image_labels=classes, decoys=(5,))
        for row, recon, own in zip(found, recons, (images[:700:2][few], IMAGES[:3]), strict=True):
            for distance, some in zip(row, (own, images[1:700:2][few]), strict=True):
                assert distance.item() == pytest.approx((some - recon).flatten(1).norm(dim=1).min().item())
        # Not all are compared: a copy of an omitted image is at a distance.
        assert 1 not in few
        assert distances(
            recons=images[[2, 700]], labels=labels, images=images, image_labels=classes, decoys=(5,)
        )[0, 0]


def whitened(
    recons: Tensor,
    labels: Tensor,
    images: Tensor,
    image_labels: Tensor,
    decoys: tuple[int, ...],
    public: Tensor,
) -> Array:
    """1 - cosine, with the dense matrix Sigma^(-1/4)."""

    def flat(some: Tensor) -> Array:
        return some.flatten(1).double().numpy()

    classes = sorted(set(labels.tolist()))
    values, vectors = np.linalg.eigh(np.cov(flat(public).T))
    root = vectors @ np.diag(values**-0.25) @ vectors.T
    candidates = {k: root @ flat(images)[image_labels.numpy() == k].mean(0) for k in (*classes, *decoys)}
    found = {k: root @ flat(recons)[labels.numpy() == k].mean(0) for k in classes}
    centre = np.mean([*candidates.values()], axis=0)
    mean = np.mean([*found.values()], axis=0)

    def distance(label: int, candidate: int) -> float:
        u, v = found[label] - mean, candidates[candidate] - centre
        return float(1 - u @ v / np.linalg.norm(u) / np.linalg.norm(v))

    return np.array([[distance(k, candidate) for candidate in (k, *decoys)] for k in classes])


class TestWhitened:
    def test_is_that_of_dense_matrices(self) -> None:
        """Classes 3 and 6 have no role, so they are in no mean."""
        expected = whitened(RECONS, LABELS, IMAGES, CLASS, DECOYS, PUBLIC)
        found = distances("whitened")
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found, expected, atol=1e-6)
        without = (CLASS != 3) & (CLASS != 6)
        assert torch.equal(distances("whitened", images=IMAGES[without], image_labels=CLASS[without]), found)
        assert not np.allclose(distances("whitened", decoys=(4, 3))[:, 1], expected[:, 1])

    def test_does_not_depend_on_the_mean_and_contrast_of_all_reconstructions(self) -> None:
        pale = 0.3 + 0.5 * RECONS
        torch.testing.assert_close(
            distances("whitened", recons=pale), distances("whitened"), atol=1e-5, rtol=0
        )

    def test_equal_reconstructions_tie(self) -> None:
        """They say nothing of a class, so the rounding of their mean must not rank the candidates."""
        for count in (2, 3, 5):
            same = RECONS[:1].expand(2 * count, -1, -1, -1).contiguous()
            found = distances("whitened", recons=same, labels=torch.arange(count).repeat(2), decoys=(5, 6))
            assert torch.equal(found, torch.ones(count, 3, dtype=torch.float64))
            assert linkage(found).top1.tolist() == [pytest.approx(1 / 3)] * count


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("coarse", [False, True])
def test_an_attacker_without_the_model_has_exactly_the_chance(scorer: str, coarse: bool) -> None:
    """Every candidate of a class takes its place, and what the attacker hands in stays the same.

    Coarse images have two grey levels, so many distances are equal.
    """
    images = IMAGES.round() if coarse else IMAGES
    recons = RECONS.round() if coarse else RECONS
    slots = torch.tensor([0, 1, 0, 2, 1, 0])
    private, decoys = [5, 1, 2], [4, 0, 6]
    for slot in range(3):
        candidates = [private[slot], *decoys]
        found = []
        for true in candidates:
            classes = torch.tensor([*private[:slot], true, *private[slot + 1 :]])
            others = [k for k in candidates if k != true]
            table = distances(scorer, recons=recons, images=images, labels=classes[slots], decoys=others)
            row = classes.sort().values.tolist().index(true)
            found.append([value[row].item() for value in linkage(table)])
        top1, auc = np.mean(found, axis=0)
        assert top1 == pytest.approx(1 / 4, abs=1e-12)
        assert auc == pytest.approx(1 / 2, abs=1e-12)


@pytest.mark.parametrize("scorer", SCORERS)
def test_a_private_image_of_every_class_is_linked(scorer: str) -> None:
    centre = noise(7, 1, 4, 4, seed=6)
    images = (centre[CLASS] + 0.05 * (IMAGES - 0.5)).clamp(0, 1)
    first = torch.stack([images[k == CLASS][0] for k in (1, 2, 5)])
    found = linkage(distances(scorer, recons=first, labels=torch.tensor([1, 2, 5]), images=images))
    assert found.top1.tolist() == found.auc.tolist() == [1, 1, 1]


FAULTS: list[tuple[dict[str, object], str]] = [
    ({"recons": RECONS[0]}, r"recons must be \(n, C, H, W\)"),
    ({"recons": RECONS * torch.nan}, r"recons must have pixels in \[0, 1\]; they range from nan"),
    ({"labels": LABELS[:2]}, r"labels of recons must be int64 of shape \(6,\)"),
    ({"images": IMAGES + 1}, r"images must have pixels in \[0, 1\]"),
    ({"image_labels": CLASS.float()}, "labels of images must be int64 .* got torch.float32"),
    (
        {"images": noise(63, 1, 4, 5)},
        r"recons have shape \(1, 4, 4\), the private images \(1, 4, 5\); resize one",
    ),
    (
        {"decoys": (4, 5, 2)},
        r"decoys must be .* not attacked; got \[4, 5, 2\], of which \[2, 5\] are attacked",
    ),
    ({"decoys": ()}, r"decoys must be at least 1 class that is not attacked; got \[\]$"),
    ({"decoys": (4, 8)}, "class 8 has no private image"),
    ({"labels": torch.where(LABELS == 5, 9, LABELS)}, "class 9 has no private image"),
]
PUBLIC_FAULTS: list[tuple[dict[str, object], str]] = [
    ({"public": PUBLIC[0]}, r"public must be \(n, C, H, W\)"),
    ({"public": PUBLIC[:0]}, "public must be .* with n at least 1"),
    ({"public": PUBLIC - 1}, r"public must have pixels in \[0, 1\]"),
    ({"public": PUBLIC[..., :3]}, r"public have shape \(1, 4, 3\), the private images \(1, 4, 4\); resize"),
    ({"public": PUBLIC[:1].expand(5, -1, -1, -1)}, "at least 2 different images.* got 5 images that are all equal"),
    ({"labels": torch.full((6,), 3)}, r"labels must hold at least 2 classes; got \[3\]"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("scorer", "changes", "message"),
    [(scorer, *fault) for scorer in SCORERS for fault in FAULTS]
    + [("whitened", *fault) for fault in PUBLIC_FAULTS],
)
def test_candidate_distances_refuses(scorer: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distances(scorer, **changes)


@pytest.mark.parametrize("changes", [changes for changes, _ in PUBLIC_FAULTS])
def test_the_mia_scorer_uses_no_public_images_and_no_mean(changes: dict[str, object]) -> None:
    assert distances(**changes).isfinite().all()


def test_an_unknown_scorer() -> None:
    with pytest.raises(ValueError, match=r"scorer must be one of \('mia', 'whitened'\); got 'cosine'"):
        distances("cosine")


def test_the_mia_scorer_knows_the_kinds_of_the_mia_distance() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of .* got 'lpips'"):
        distances(kind="lpips")


class TestIdentification:
    LOGITS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    TRUE = torch.arange(40) % 3
    DECOYS = (5, 3)

    def test_counts_what_the_evaluator_says(self) -> None:
        found = identification(self.LOGITS, self.TRUE, self.DECOYS)
        said = self.LOGITS.numpy().argmax(1)
        true = self.TRUE.numpy()
        assert found.own.dtype == found.decoy.dtype == torch.float64
        assert found.own.tolist() == [float(a == b) for a, b in zip(said, true, strict=True)]
        assert found.decoy.tolist() == [np.mean([a == d for d in self.DECOYS]) for a in said]
        assert found.gain.tolist() == [
            (a == b) - np.mean([a == d for d in self.DECOYS]) for a, b in zip(said, true, strict=True)
        ]
        # All four answers occur: the own class, another private class, a decoy, and a class without a role.
        assert {1.0, 0.0} == set(found.own.tolist())
        assert {0.5, 0.0} == set(found.decoy.tolist())
        assert {1.0, 0.0, -0.5} == set(found.gain.tolist())

    def test_gain_of_an_attacker_without_the_model_is_exactly_zero(self) -> None:
        for row in self.LOGITS[:, None]:
            candidates = [2, 3, 5, 0]
            gains = [
                identification(row, torch.tensor([true]), [k for k in candidates if k != true]).gain.item()
                for true in candidates
            ]
            assert np.mean(gains) == pytest.approx(0, abs=1e-12)

    @pytest.mark.parametrize(
        ("labels", "decoys"), [(torch.tensor([0, 6]), (1, 2)), (torch.tensor([0, 1]), (6, 2))]
    )
    def test_refuses_a_class_that_the_evaluator_does_not_know(
        self, labels: Tensor, decoys: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match="the evaluator must know class 6; it has 6 classes"):
            identification(self.LOGITS[:2], labels, decoys)


def test_distances_among_classes_are_whitened_cosines_to_every_class() -> None:
    """Against the candidates of the same classes as decoys of one another, one class at a time, in float64."""
    found = distances_among_classes(RECONS, LABELS, IMAGES, CLASS, public=PUBLIC)
    prior = PublicGaussian.of(PUBLIC)
    root = prior.components.numpy() * prior.variances.numpy() ** -0.25
    classes = [1, 2, 5]
    known = np.stack([IMAGES[k == CLASS].flatten(1).double().mean(dim=0).numpy() for k in classes])
    given = np.stack([RECONS[k == LABELS].flatten(1).double().mean(dim=0).numpy() for k in classes])
    rows = []
    for own in range(3):
        a = (given - given.mean(axis=0))[own] @ root
        cosines = []
        for other in [own, *(k for k in range(3) if k != own)]:
            b = (known - known.mean(axis=0))[other] @ root
            cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
        rows.append(1 - np.array(cosines))
    np.testing.assert_allclose(found.numpy(), np.stack(rows), atol=1e-9)


def test_one_class_cannot_be_told_from_itself() -> None:
    with pytest.raises(ValueError, match="labels must hold at least 2 classes"):
        distances_among_classes(RECONS[:1], LABELS[:1], IMAGES, CLASS, public=PUBLIC)


def test_classes_without_a_model_are_told_apart_by_chance() -> None:
    """Noise as reconstructions: top-1 is 1/C on average."""
    shares = [
        linkage(
            distances_among_classes(
                noise(7, 1, 4, 4, seed=seed), torch.arange(7), IMAGES, CLASS, public=PUBLIC
            )
        ).top1.mean()
        for seed in range(200)
    ]
    assert float(np.mean(shares)) == pytest.approx(1 / 7, abs=3 * float(np.std(shares)) / 200**0.5)
