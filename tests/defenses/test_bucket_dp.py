"""Class-, subclass- and user-level DP: epsilon, the noise, and which partitions there are."""

from __future__ import annotations

import pytest
import torch

from accountants import epsilon
from dpmi.data import ImageSet, Split
from dpmi.defenses import BiDOHSIC, BucketDP, ClassDP, Recipe, SubclassDP, UserDP, compose
from dpmi.privacy import Statement

from .conftest import fit

PRIVATE = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "max_grad_norm": 1.0}


def test_epsilon_is_that_of_the_settings(split: Split) -> None:
    defense = ClassDP(noise_multiplier=1.6, sampling_rate=0.2, max_grad_norm=1.0)
    account = fit(defense, split.train, recipe=Recipe(steps=7, learning_rate=0.1)).account
    assert account is not None
    expected = epsilon(sampling_rate=0.2, noise_multiplier=1.6, steps=7, delta=1e-3, unit="class")
    assert account.guarantee(1e-3).epsilon == expected.epsilon
    assert account.guarantee(1e-3).adjacency == "replace"


def test_subclass_statement_begins_with_its_condition(split: Split) -> None:
    recipe = Recipe(steps=2, learning_rate=0.1)
    subclass = fit(SubclassDP(**PRIVATE, clusters_per_class=2), split.train, recipe=recipe).account
    of_class = fit(ClassDP(**PRIVATE), split.train, recipe=recipe).account
    assert subclass is not None
    assert of_class is not None
    assert (
        "conditional on the partition"
        in Statement(accounts=(subclass,), delta=1e-3).markdown().splitlines()[0]
    )
    assert "conditional" not in Statement(accounts=(of_class,), delta=1e-3).markdown()


def test_noise_drowns_what_is_learned(split: Split) -> None:
    """The strength is one: with enormous noise the parameters are noise, of the size that is promised."""
    defense = ClassDP(noise_multiplier=1e6, sampling_rate=0.5, max_grad_norm=2.0)
    recipe = Recipe(steps=1, learning_rate=1.0, momentum=0.0)
    trained = fit(defense, split.train, recipe=recipe)
    moved = torch.cat([p.detach().flatten() for p in trained.model.parameters()])
    # One step of learning rate 1: noise sigma * S over the divisor qK = 5, in each of 650 parameters.
    assert float(moved.std()) == pytest.approx(1e6 * 2.0 / 5, rel=0.1)


def test_more_clusters_than_records_are_refused(split: Split) -> None:
    few = ImageSet(split.train.images[:60], split.train.labels[:60])
    with pytest.raises(ValueError, match="clusters_per_class"):
        fit(SubclassDP(**PRIVATE, clusters_per_class=50), few)


def test_a_defence_without_a_partition_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="partition"):
        BucketDP(**PRIVATE, delta=1e-3)  # type: ignore[abstract]


def test_units_of_the_images_are_the_buckets(split: Split) -> None:
    """Subclasses lie inside a class, users may not; the number of clusters is not used, nor is its limit."""
    train, place = split.train, torch.arange(len(split.train))
    recipe = Recipe(steps=2, learning_rate=0.1)
    halves = ImageSet(train.images, train.labels, 2 * train.labels + place % 2)
    by_subclass = fit(SubclassDP(**PRIVATE, clusters_per_class=10**6), halves, recipe=recipe).account
    by_user = fit(
        UserDP(**PRIVATE), ImageSet(train.images, train.labels, place % 30 * 7), recipe=recipe
    ).account
    assert by_subclass is not None
    assert by_user is not None
    assert (by_subclass.unit, by_subclass.buckets) == ("subclass", 20)
    assert (by_user.unit, by_user.buckets) == ("user", 30)
    assert UserDP(**PRIVATE).partition(halves, 0).bucket_of.tolist() == halves.units.tolist()  # type: ignore[union-attr]


def test_units_of_another_kind_are_refused(split: Split) -> None:
    train = split.train
    with pytest.raises(
        ValueError, match=r"units must name the user of every image .* no units; use a data set with"
    ):
        fit(UserDP(**PRIVATE), train)
    users = ImageSet(train.images, train.labels, torch.arange(len(train)) % 100)
    with pytest.raises(
        ValueError,
        match=r"units must be subclasses, but unit .* has images of 10 classes; use user-dp if the units are users",
    ):
        fit(SubclassDP(**PRIVATE), users)


def test_a_user_is_not_inside_a_class() -> None:
    assert compose(BiDOHSIC(), UserDP(**PRIVATE)).remarks() == ()
    (remark,) = compose(BiDOHSIC(), SubclassDP(**PRIVATE)).remarks()
    assert "holds records of one class" in remark
