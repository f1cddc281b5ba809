"""Partitions: what they contain, where they come from, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dpmi.privacy import Partition, Provenance


def test_by_class_keeps_the_labels() -> None:
    partition = Partition.by_class(np.array([2, 0, 1, 2, 2]))
    assert partition.sizes.tolist() == [1, 1, 3]
    assert partition.records(2).tolist() == [0, 3, 4]
    assert (partition.unit, partition.provenance, partition.conditional) == (
        "class",
        Provenance.RECORD,
        False,
    )


def test_by_column_takes_any_ids() -> None:
    partition = Partition.by_column(["bo", "al", "bo"], unit="patient")
    assert partition.bucket_of.tolist() == [1, 0, 1]
    assert partition.names == ("patient al", "patient bo")
    assert partition.unit == "patient"


def test_kmeans_clusters_stay_inside_their_class_and_condition_the_guarantee() -> None:
    x, y = load_digits(return_X_y=True)
    partition = Partition.by_kmeans(x, y, 5, seed=0)
    assert partition.num_buckets == 50
    assert np.array_equal(partition.bucket_of // 5, y)
    assert partition.conditional
    again, other = Partition.by_kmeans(x, y, 5, seed=0), Partition.by_kmeans(x, y, 5, seed=1)
    assert partition.hash == again.hash != other.hash
    # Within a cluster the records are closer to their mean than the class is to its own.
    inside = np.mean([x[partition.records(k)].var(0).sum() for k in range(50)])
    assert inside < 0.75 * np.mean([x[y == k].var(0).sum() for k in range(10)])


def test_nearest_public_centroid_depends_on_each_record_alone() -> None:
    x, y = load_digits(return_X_y=True)
    centroids = np.stack([x[y == k][:3] for k in range(10)]) + np.random.default_rng(0).normal(
        0, 1, (10, 3, 64)
    )
    whole = Partition.by_nearest_centroid(x, centroids, y)
    assert not whole.conditional
    expected = [y[i] * 3 + np.argmin(((x[i] - centroids[y[i]]) ** 2).sum(1)) for i in range(0, len(x), 50)]
    assert whole.bucket_of[::50].tolist() == expected


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Partition.by_class([]), ["0 records"]),
        (lambda: Partition.by_class([0, -1]), ["record 1", "-1"]),
        (lambda: Partition.by_class([0, 2]), ["bucket 1", "class 1", "no records"]),
        (lambda: Partition.by_class([0.5, 1.0]), ["float64", "integers"]),
        (
            lambda: Partition.by_kmeans(np.zeros((3, 2)), [0, 0, 1], 2),
            ["class 1", "1 records", "clusters_per_class=2"],
        ),
        (lambda: Partition.by_kmeans(np.zeros((3, 2)), [0, 0, 1], 0), ["clusters_per_class is 0"]),
        (lambda: Partition.by_kmeans(np.zeros((3, 2)), [0, 0], 1), ["labels have 2", "features have 3"]),
        (lambda: Partition.by_kmeans([[0.0], [np.nan]], [0, 0], 1), ["record 1", "not finite"]),
        (
            lambda: Partition.by_nearest_centroid(np.zeros((2, 2)), np.zeros((1, 2, 2)), [0, 0]),
            ["bucket 1", "no records"],
        ),
        (
            lambda: Partition.by_nearest_centroid(np.zeros((2, 2)), np.zeros((1, 2, 3)), [0, 0]),
            ["3 features", "have 2"],
        ),
    ],
)
def test_bad_partitions_are_refused(make, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message is what is tested)
        make()
    for word in words:
        assert word in str(error.value)


def test_hash_is_of_the_ids_the_unit_and_the_provenance() -> None:
    """What a checkpoint or a ledger is tied to: whoever changes one of them has another partition."""
    one = Partition.by_class([0, 1, 1])
    assert one.hash == Partition.by_class([0, 1, 1]).hash
    others = [
        dataclasses.replace(one, bucket_of=np.array([1, 0, 1])),
        dataclasses.replace(one, bucket_of=np.array([0, 1, 1, 1])),
        dataclasses.replace(one, unit="user"),
        dataclasses.replace(one, provenance=Provenance.FITTED),
        dataclasses.replace(one, provenance=Provenance.PUBLIC),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 6


def test_hashes_of_saved_accounts_and_checkpoints_stay_valid() -> None:
    assert (
        Partition.by_class([0, 1, 1]).hash
        == "43b32bc75610994598bece52d873600a03009058a5decb42a18a6ae4a098cdde"
    )
    assert (
        Partition.by_column(["b", "a", "b"], unit="patient").hash
        == "60a65c96f1e49c6c1e708036dbcaa4377b24f4c55530900d06cb5b90c18e0daa"
    )


def test_the_ids_cannot_be_changed_afterwards() -> None:
    labels = np.array([0, 1])
    partition = Partition.by_class(labels)
    labels[0] = 1
    assert partition.bucket_of.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        partition.bucket_of[0] = 1
