"""Halves of the units: exact, complementary, and what the target of a half is trained on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from dpmi import data
from dpmi.data import ImageSet, Split
from dpmi.data.halves import HalfDraw, Unit, Units, divide
from dpmi.privacy import Partition


@pytest.fixture(scope="module")
def split() -> Split:
    return data.load("digits")


def with_users(split: Split, users: Tensor) -> Split:
    return dataclasses.replace(split, train=ImageSet(split.train.images, split.train.labels, users))


def divided(split: Split, unit: Unit) -> Units:
    return divide(split, unit, clusters_per_class=4)


def test_subclasses_are_the_clusters_of_subclass_dp(split: Split) -> None:
    units = divided(split, "subclass")
    expected = Partition.by_kmeans(split.train.images.numpy(), split.train.labels.numpy(), 4, seed=0)
    assert units.of.tolist() == expected.bucket_of.tolist()
    assert units.group.tolist() == [k for k in range(10) for _ in range(4)]
    assert torch.equal(units.group[units.of], split.train.labels)


def test_records_and_users(split: Split) -> None:
    records = divided(split, "record")
    assert records.of.tolist() == list(range(len(split.train)))
    assert torch.equal(records.group, split.train.labels)
    names = torch.tensor([7, 3, 900])[torch.arange(len(split.train)) % 3]
    users = divided(with_users(split, names), "user")
    assert torch.equal(torch.tensor([3, 7, 900])[users.of], names)
    assert users.group.tolist() == [0, 0, 0], "users have images of all classes"


@pytest.mark.parametrize("unit", ["subclass", "record", "user"])
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_halves_of_every_group_are_exact_and_complementary(split: Split, unit: Unit, seed: int) -> None:
    units = divided(with_users(split, torch.arange(len(split.train)) % 41), unit)
    kept = HalfDraw(seed=seed).kept(units)
    assert torch.equal(HalfDraw(seed=seed, complement=True).kept(units), ~kept)
    assert torch.equal(HalfDraw(seed=seed).kept(units), kept)
    assert not torch.equal(HalfDraw(seed=seed + 1).kept(units), kept)
    sizes = torch.bincount(units.group)
    assert torch.equal(torch.bincount(units.group[kept], minlength=len(sizes)), sizes // 2)


def test_every_unit_is_in_equally_often() -> None:
    """Every pair of units of a group is equally often in and out, in either order; this makes chance exact."""
    units = Units("record", torch.arange(5), torch.tensor([0, 0, 0, 0, 1]))
    drawn = torch.stack([HalfDraw(seed=seed).kept(units) for seed in range(3000)]).double()
    assert drawn.mean(dim=0)[:4].tolist() == pytest.approx([0.5] * 4, abs=0.03)
    in_and_out = (drawn.T @ (1 - drawn) / len(drawn))[:4, :4]
    # One of 2 of 4 units, and not the other: 1/2 * 2/3.
    assert in_and_out[~torch.eye(4, dtype=torch.bool)].tolist() == pytest.approx([1 / 3] * 12, abs=0.03)


@pytest.mark.parametrize("unit", ["subclass", "record", "user"])
def test_the_target_is_trained_on_the_units_that_are_in(split: Split, unit: Unit) -> None:
    whole = with_users(split, torch.arange(len(split.train)) % 40) if unit == "user" else split
    units = divided(whole, unit)
    kept = HalfDraw(seed=3).kept(units)
    rows = kept[units.of]
    parts = [units.part(whole, kept), units.part(whole, ~kept)]
    for part, mine in zip(parts, (rows, ~rows), strict=True):
        assert torch.equal(part.train.images, split.train.images[mine])
        assert torch.equal(part.train.labels, split.train.labels[mine])
        assert part.test is whole.test
        assert part.public is whole.public
        assert part.class_names == split.class_names
    assert sum(len(part.train) for part in parts) == len(split.train)
    if unit == "record":
        assert parts[0].train.units is None, "subclass-dp would take records for subclasses"
    else:
        assert [set(part.train.units.tolist()) for part in parts] == [  # type: ignore[union-attr]
            set(half.nonzero()[:, 0].tolist()) for half in (kept, ~kept)
        ]


@pytest.mark.parametrize(
    ("unit", "users", "message"),
    [
        (
            "user",
            None,
            r"unit 'user' needs the user of every image, and Split\('digits'.* has no units; use a",
        ),
        ("subclass", None, "class 4 has 20 records, fewer than clusters_per_class=30; use fewer clusters"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    split: Split, unit: Unit, users: Tensor | None, message: str
) -> None:
    of_four = (split.train.labels == 4).nonzero()[:, 0]
    kept = torch.ones(len(split.train), dtype=torch.bool)
    kept[of_four[20:]] = False
    few = dataclasses.replace(split, train=split.train.cut(kept))
    with pytest.raises(ValueError, match=message):
        divide(few, unit, clusters_per_class=30)


def test_a_class_that_is_not_in_a_half_is_refused(split: Split) -> None:
    of_one_digit = with_users(split, split.train.labels)
    units = divided(of_one_digit, "user")
    with pytest.raises(
        ValueError, match=r"class '\d' of .* has no image in a half .* needs images of more users"
    ):
        units.part(of_one_digit, HalfDraw(seed=0).kept(units))
