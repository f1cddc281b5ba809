"""Roles of classes: which classes train the target, and the data set that is left."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from dpmi.data import ImageSet, Split
from dpmi.data.roles import FirstRoles, RoleDraw, Roles

CLASSES = 6
NAMES = ("a", "b", "c", "d", "e", "f")


def pixels(count: int, *, seed: int) -> torch.Tensor:
    return torch.rand(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed))


def image_set(per_class: int, *, seed: int) -> ImageSet:
    """Images of every class, with the classes mixed and every image a unit of its own."""
    count = per_class * CLASSES
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return ImageSet(pixels(count, seed=seed), torch.arange(count)[order] % CLASSES, 100 + torch.arange(count))


def a_split(**changes: object) -> Split:
    return dataclasses.replace(
        Split(
            name="shapes",
            train=image_set(4, seed=0),
            test=image_set(2, seed=1),
            public=pixels(5, seed=2),
            class_names=NAMES,
            distance="ssim",
            citation="nobody",
            public_labels=torch.tensor([0, 1, 0, 1, 0]),
            public_class_names=("others/x", "others/y"),
            collection="letters",
        ),
        **changes,
    )


def assert_same(images: ImageSet, expected: list[tuple[torch.Tensor, int, int]]) -> None:
    """Compare with images, labels and units in order."""
    assert torch.equal(images.images, torch.stack([image for image, _, _ in expected]))
    assert images.labels.tolist() == [label for _, label, _ in expected]
    assert images.units is not None
    assert images.units.tolist() == [unit for _, _, unit in expected]


class TestRoles:
    @pytest.mark.parametrize(
        ("private", "decoys"), [((4, 0), (3, 1)), ((0, 4), (1, 2, 3, 5)), ((2, 5, 1), (3, 4))]
    )
    def test_leave_the_private_classes_with_labels_in_their_order(
        self, private: tuple[int, ...], decoys: tuple[int, ...]
    ) -> None:
        split = a_split()
        own = Roles(private, decoys).of(split)
        for part, whole in ((own.train, split.train), (own.test, split.test)):
            assert whole.units is not None
            rows = zip(whole.images, whole.labels.tolist(), whole.units.tolist(), strict=True)
            assert_same(part, [(i, private.index(k), unit) for i, k, unit in rows if k in private])
        assert own.class_names == tuple(NAMES[k] for k in private)

    def test_of_images_without_units(self) -> None:
        split = a_split(train=dataclasses.replace(image_set(4, seed=0), units=None))
        own = Roles((0, 1), (2, 3)).of(split)
        assert own.train.units is None
        assert own.test.units is not None

    def test_leave_everything_public_as_it_is(self) -> None:
        split = a_split()
        own = Roles((5, 2), (0, 1, 3, 4)).of(split)
        changed = {"train", "test", "class_names"}
        for field in dataclasses.fields(Split):
            if field.name not in changed:
                assert getattr(own, field.name) is getattr(split, field.name), field.name
        assert own.identities == ("letters/f", "letters/c")
        assert own.num_classes == 2

    def test_count_the_candidates(self) -> None:
        assert Roles((0, 1, 2), (3, 4)).candidates == 3
        assert Roles((0, 1), (2, 3, 4, 5)).candidates == 5

    @pytest.mark.parametrize(
        ("private", "decoys", "message"),
        [
            ((0,), (1, 2), "private must name at least 2 classes; got 1"),
            ((0, 1), (2,), "decoys must name at least 2 classes; got 1"),
            ((), (), "private must name at least 2 classes; got 0"),
            ((0, 1, 2), (3, 2, 0), r"must be different classes; both name \[0, 2\]"),
            ((0, 1, 1), (3, 2), r"must be different classes; both name \[1\]"),
        ],
    )
    def test_refuse(self, private: tuple[int, ...], decoys: tuple[int, ...], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Roles(private, decoys)

    @pytest.mark.parametrize(("private", "decoys"), [((0, 6), (1, 2)), ((0, 1), (2, 6))])
    def test_refuse_a_class_that_the_data_set_lacks(
        self, private: tuple[int, ...], decoys: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match=r"class 6 is not in Split\('shapes', train=24, .* classes=6"):
            Roles(private, decoys).of(a_split())

    def test_refuse_an_image_of_both_roles(self) -> None:
        """A decoy that trains the target is no decoy."""
        images = pixels(8, seed=0)
        images[[5, 6]] = images[[0, 1]]
        train = ImageSet(images, torch.tensor([0, 1, 2, 3, 4, 3, 4, 5]))
        message = (
            r"^2 images of Split\('shapes', .*\) belong to both a private class and a decoy, so the decoy would train "
            "the target; remove them from one of the classes$"
        )
        split = a_split(train=train)
        with pytest.raises(ValueError, match=message):
            Roles((0, 1), (3, 4)).of(split)
        with pytest.raises(ValueError, match=r"^1 images of .* belong to both"):
            Roles((3, 2), (0, 1)).of(split)
        # The same images in one role, or in a class without a role, are no decoys that train.
        for harmless in (Roles((0, 1, 3, 4), (2, 5)), Roles((2, 5), (0, 1, 3, 4)), Roles((0, 1), (2, 5))):
            assert harmless.of(split).num_classes == len(harmless.private)


class TestRoleDraw:
    @pytest.mark.parametrize(
        ("classes", "private", "decoys", "sizes"),
        [
            (10, None, None, (5, 5)),
            (11, None, None, (5, 5)),
            (4, None, None, (2, 2)),
            (5, 3, None, (3, 2)),
            (10, 3, None, (3, 7)),
            (10, None, 2, (5, 2)),
            (10, 3, 4, (3, 4)),
            (10, 8, 2, (8, 2)),
        ],
    )
    def test_sizes(
        self, classes: int, private: int | None, decoys: int | None, sizes: tuple[int, int]
    ) -> None:
        for seed in range(20):
            for swapped in (False, True):
                roles = RoleDraw(seed=seed, swapped=swapped, private=private, decoys=decoys).roles(classes)
                assert (len(roles.private), len(roles.decoys)) == sizes
                drawn = {*roles.private, *roles.decoys}
                assert len(drawn) == sum(sizes)
                assert drawn <= set(range(classes))

    @pytest.mark.parametrize("classes", [4, 10, 11])
    def test_halves_swap_exactly(self, classes: int) -> None:
        for seed in range(20):
            one, other = (RoleDraw(seed=seed, swapped=s).roles(classes) for s in (False, True))
            assert set(one.private) == set(other.decoys)
            assert set(one.decoys) == set(other.private)

    @pytest.mark.parametrize(("private", "decoys"), [(3, 2), (3, None), (2, 3), (4, 3)])
    def test_the_smaller_role_is_swapped_completely(self, private: int, decoys: int | None) -> None:
        for seed in range(20):
            one, other = (
                RoleDraw(seed=seed, swapped=s, private=private, decoys=decoys).roles(private + (decoys or 2))
                for s in (False, True)
            )
            assert {*one.private, *one.decoys} == {*other.private, *other.decoys}
            if private > len(one.decoys):
                assert set(one.decoys) < set(other.private)
            else:
                assert set(one.private) < set(other.decoys)

    def test_is_the_same_for_the_same_seed_and_draws_no_global_number(self) -> None:
        before = torch.random.get_rng_state()
        assert RoleDraw(seed=3).roles(10) == RoleDraw(seed=3).roles(10)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert len({RoleDraw(seed=seed).roles(10) for seed in range(50)}) == 50
        assert {RoleDraw(seed=3)} == {RoleDraw(seed=3, swapped=False)} != {RoleDraw(seed=3, swapped=True)}

    @pytest.mark.parametrize("swapped", [False, True])
    def test_every_order_is_equally_likely(self, swapped: bool) -> None:
        """The chance level rests on it: given all classes with a role, each may hold each label or be a decoy.

        Of 120 orders of 5 classes, 20 differ in the private classes or their labels, and 10 in the decoys. A uniform
        draw fails each of the two tests with probability 1e-4.
        """
        found = [RoleDraw(seed=seed, swapped=swapped).roles(5) for seed in range(4000)]
        private = Counter(roles.private for roles in found)
        assert set(private) == set(permutations(range(5), 2))
        assert chisquare(list(private.values())).pvalue > 1e-4
        decoys = Counter(frozenset(roles.decoys) for roles in found)
        assert len(decoys) == 10
        assert chisquare(list(decoys.values())).pvalue > 1e-4

    def test_labels_are_shuffled(self) -> None:
        """With labels in the order of the classes, an attacker would know that the last digit is rarely label 0."""
        first = Counter(RoleDraw(seed=seed).roles(4).private[0] for seed in range(2000))
        assert chisquare([first[k] for k in range(4)]).pvalue > 1e-4

    @pytest.mark.parametrize(
        ("changes", "classes", "message"),
        [
            ({}, 3, "linkage needs at least 4 classes, 2 private and 2 decoys; the data set has 3"),
            ({"private": 2, "decoys": 2}, 3, "linkage needs at least 4 classes"),
            (
                {"private": 9},
                10,
                "private = 9 and at least 2 decoys are more than the 10 classes of the data set; give smaller numbers "
                "of private classes and decoys",
            ),
            ({"private": 10}, 10, "private = 10 and at least 2 decoys are more than the 10 classes of the data set"),
            ({"decoys": 6}, 10, "private = 5 and 6 decoys are more than the 10 classes of the data set; give"),
            ({"private": 8, "decoys": 3}, 10, "private = 8 and 3 decoys are more than the 10 classes .*; give"),
        ],
    )  # fmt: skip
    def test_refuses_a_data_set_with_too_few_classes(
        self, changes: dict[str, int], classes: int, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            RoleDraw(seed=0, **changes).roles(classes)

    @pytest.mark.parametrize("name", ["private", "decoys"])
    def test_refuses_a_role_of_one_class(self, name: str) -> None:
        with pytest.raises(ValueError, match=f"{name} must be at least 2; got 1"):
            RoleDraw(seed=0, **{name: 1})
        assert RoleDraw(seed=0, **{name: 2}).roles(4).candidates == 3


def test_first_roles_are_the_first_classes() -> None:
    found = FirstRoles(private=3).roles(7)
    assert (found.private, found.decoys) == ((0, 1, 2), (3, 4, 5, 6))
    assert FirstRoles(private=3, decoys=2).roles(7).decoys == (3, 4)
    for wrong in (FirstRoles(private=6), FirstRoles(private=7), FirstRoles(private=3, decoys=5)):
        with pytest.raises(ValueError, match="the data set has 7 classes"):
            wrong.roles(7)
