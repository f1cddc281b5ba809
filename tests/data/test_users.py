"""Synthetic users: sizes, disjointness, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dpmi import data
from dpmi.data import Split
from dpmi.data.users import LARGEST_USER, with_users


@pytest.fixture(scope="module")
def digits() -> Split:
    return data.load("digits")


def units(split: Split) -> torch.Tensor:
    assert split.train.units is not None
    return split.train.units


def test_every_user_gets_as_many_images_and_the_last_the_rest(digits: Split) -> None:
    sizes = units(with_users(digits, size=50)).bincount()
    assert sizes.tolist() == [50] * (1197 // 50) + [1197 % 50]


def test_zipf_sizes_follow_their_law(digits: Split) -> None:
    many = dataclasses.replace(
        digits,
        train=dataclasses.replace(
            digits.train,
            images=digits.train.images.repeat(50, 1, 1, 1),
            labels=digits.train.labels.repeat(50),
        ),
    )
    sizes = units(with_users(many, size="zipf")).bincount()[:-1]  # the last user may be cut short
    assert sizes.sum() <= len(many.train)
    assert 1 <= int(sizes.min()) <= int(sizes.max()) <= LARGEST_USER
    harmonic = sum(1 / n for n in range(1, LARGEST_USER + 1))
    deviation = (1 / harmonic / len(sizes)) ** 0.5
    assert float((sizes == 1).double().mean()) == pytest.approx(1 / harmonic, abs=4 * deviation)
    assert float(sizes.double().mean()) == pytest.approx(LARGEST_USER / harmonic, rel=0.1)


def test_a_seed_repeats_it_and_only_units_are_new(digits: Split) -> None:
    one, same, other = (with_users(digits, size=10, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(units(one), units(same))
    assert not torch.equal(units(one), units(other))
    assert torch.equal(one.train.images, digits.train.images)
    assert one.digest != digits.digest
    # A user's images are a random sample of all classes.
    assert len(one.train.labels[units(one) == 0].unique()) > 2


def test_what_cannot_be_is_refused(digits: Split) -> None:
    with pytest.raises(ValueError, match=r"users are given, but the images of .* already have units"):
        with_users(with_users(digits, size=10), size=10)
    with pytest.raises(ValueError, match=r"users\.size must be below 1197, .* got 1197"):
        with_users(digits, size=1197)
    with pytest.raises(ValueError, match=r"users\.size must be at least 1"):
        with_users(digits, size=0)
