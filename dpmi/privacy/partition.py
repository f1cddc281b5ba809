"""Partitions: the bucket of every record, which is the unit of the guarantee.

Example:
    >>> partition = Partition.by_class([0, 1, 1, 0])
    >>> partition.num_buckets, partition.sizes.tolist(), partition.unit
    (2, [2, 2], 'class')
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence, Sized
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from accountants import checks

from .ids import distinct, whole
from .owners import OwnerSets

IntArray = NDArray[np.int64]


class Rows(Protocol):
    """Records (N, ...) outside the memory, which are read by an int64 tensor of rows."""

    @property
    def shape(self) -> Sequence[int]:
        """The shape (N, ...)."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


class Provenance(str, Enum):
    """What the partition was computed from; this determines whether the guarantee is conditional on it."""

    RECORD = "computed from each record alone (its label, or its own column)"
    PUBLIC = "computed from each record alone, against public centroids"
    FITTED = "fitted on the private records"
    OWNERS = "computed from who owns which record, which counts as public, and from nothing else"

    @property
    def conditional(self) -> bool:
        """True if the guarantee is conditional on the partition, because one record can change the bucket of others.

        Records fitted together do that, and so do owners: if a record had other owners, the records of others might no
        longer fit.
        """
        return self in (Provenance.FITTED, Provenance.OWNERS)


@dataclass(frozen=True, eq=False)
class Partition:
    """Record -> bucket, with the unit and the provenance of the partition.

    Args:
        bucket_of: int array (N,), the bucket of each record; buckets are 0..K-1 and none is empty.
        unit: what one bucket is, in the words of the guarantee ("class", "subclass", a column's name); one line.
        provenance: what the partition was computed from.
        names: one name per bucket, for error messages and reports.
        buckets_per_unit: the most buckets that one unit owns, from 1 to K. If a unit owns several, a bucket may have
            several owners.
        kept: int array (N,), ascending: the places of these records in the data set that was given, if records may have
            been left out; train on ``torch.utils.data.Subset(data, partition.kept)``. None: they are the data set.
        left_out: number of records of that data set that are in no bucket.

    Raises:
        TypeError, ValueError: an empty unit or data set, a negative id, an empty bucket, a wrong number of names, or
            one of the last three is out of range.
    """

    bucket_of: IntArray
    unit: str
    provenance: Provenance
    names: tuple[str, ...]
    buckets_per_unit: int = 1
    kept: IntArray | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        checks.unit(self.unit)
        ids = self.bucket_of
        if len(ids) == 0:
            raise ValueError("the partition has 0 records; at least 1 is needed")
        if ids.min() < 0:
            at = int(ids.argmin())
            raise ValueError(f"record {at} has bucket id {ids[at]}; ids must be 0 or larger")
        counts = np.bincount(ids, minlength=len(self.names))
        if len(counts) != len(self.names):
            raise ValueError(
                f"names has {len(self.names)} entries, but bucket ids go up to {ids.max()}; pass one name per bucket"
            )
        if not counts.all():
            empty = int(counts.argmin())
            raise ValueError(
                f"bucket {empty} ({self.names[empty]}) has no records; every bucket needs at least 1. "
                "Number the buckets without gaps, or use fewer buckets"
            )
        checks.integer("buckets_per_unit", self.buckets_per_unit, minimum=1)
        if self.buckets_per_unit > self.num_buckets:
            raise ValueError(
                f"buckets_per_unit is {self.buckets_per_unit}, but there are {self.num_buckets} buckets"
            )
        ids.setflags(write=False)
        self._check_kept()

    def _check_kept(self) -> None:
        checks.integer("left_out", self.left_out, minimum=0)
        kept = self.kept
        if kept is None:
            if self.left_out:
                raise ValueError(f"left_out is {self.left_out}, but kept does not say which records are left")
            return
        if len(kept) != len(self) or kept[0] < 0 or np.any(np.diff(kept) <= 0):
            raise ValueError(
                f"kept must be {len(self)} ascending indices, one for every record; got {len(kept)}, starting at "
                f"{kept[:1]}"
            )
        if kept[-1] >= len(self) + self.left_out:
            raise ValueError(
                f"kept goes up to {kept[-1]}, but a data set of {len(self)} kept records and {self.left_out} left out "
                f"ends at {len(self) + self.left_out - 1}"
            )
        kept.setflags(write=False)

    def __len__(self) -> int:
        return len(self.bucket_of)

    def __repr__(self) -> str:
        # The ids are private, so they are not printed.
        more = f", at most {self.buckets_per_unit} per unit" if self.buckets_per_unit > 1 else ""
        more += f", {self.left_out} records left out" if self.left_out else ""
        return f"Partition({len(self)} records, {self.num_buckets} buckets, unit={self.unit!r}{more})"

    @property
    def num_buckets(self) -> int:
        """Number of buckets K; it is public."""
        return len(self.names)

    @cached_property
    def sizes(self) -> IntArray:
        """Records per bucket, int array (K,)."""
        return np.bincount(self.bucket_of, minlength=self.num_buckets).astype(np.int64)

    @cached_property
    def by_bucket(self) -> tuple[IntArray, IntArray]:
        """Record indices sorted by bucket, (N,), and the start of each bucket among them, (K + 1,)."""
        order = np.argsort(self.bucket_of, kind="stable").astype(np.int64)
        return order, np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def records(self, bucket: int) -> IntArray:
        """Return the indices of the records of one bucket, ascending."""
        order, start = self.by_bucket
        return order[start[bucket] : start[bucket + 1]]

    @property
    def conditional(self) -> bool:
        """True if the guarantee is conditional on the partition; see :class:`Provenance`."""
        return self.provenance.conditional

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of everything but the names; it identifies the partition in checkpoints and accounts.

        ``buckets_per_unit`` counts if it is above 1, and ``kept`` if records were left out.
        """
        digest = hashlib.sha256(f"{self.unit}\0{self.provenance.name}\0".encode())
        if self.buckets_per_unit > 1:
            digest.update(f"{self.buckets_per_unit} buckets per unit\0".encode())
        digest.update(self.bucket_of.astype("<i8").tobytes())
        if self.kept is not None and self.left_out:
            digest.update(b"kept\0" + self.kept.astype("<i8").tobytes())
        return digest.hexdigest()

    @classmethod
    def by_class(cls, labels: ArrayLike) -> Partition:
        """Make one bucket per class: class-level DP ([Z20] Definition 5).

        Args:
            labels: int array (N,), classes 0..K-1.
        """
        ids = _labels(labels)
        num = int(ids.max(initial=-1)) + 1
        return cls(ids, "class", Provenance.RECORD, tuple(f"class {k}" for k in range(num)))

    @classmethod
    def by_record(cls, num_records: int) -> Partition:
        """Make one bucket per record: ordinary record-level DP."""
        ids = np.arange(num_records, dtype=np.int64)
        return cls(ids, "record", Provenance.RECORD, tuple(f"record {i}" for i in range(num_records)))

    @classmethod
    def by_column(cls, ids: Sequence[object] | NDArray[np.generic], *, unit: str = "user") -> Partition:
        """Make one bucket per distinct value of a column, for example for user-level DP.

        Args:
            ids: one value per record (N,), all of one sortable type.
            unit: what a value stands for ("user", "patient", "hospital").

        Raises:
            ValueError: an id is missing, or its type differs from the first; the message names the record.
        """
        values, inverse = distinct(ids, unit)
        return cls(
            inverse,
            unit,
            Provenance.RECORD,
            tuple(f"{unit} {value}" for value in values),
        )

    @classmethod
    def by_owners(
        cls,
        owners: Sequence[Collection[object]] | NDArray[np.generic],
        *,
        buckets_per_owner: int = 1,
        unit: str = "owner",
    ) -> Partition:
        """Bound the contributions of owners, where a record may have several: a patient and a hospital, two users.

        Records with exactly the same owners form one bucket. A bucket is kept if each of its owners has fewer than
        ``buckets_per_owner`` kept ones; the records of the others are left out. This is the greedy algorithm of
        [GMM25] on buckets instead of records, largest bucket first; ties go to the bucket with fewer owners, then to
        that with the earlier record. The kept records are at least 1/m of the most that could be kept, where m is the
        largest number of owners of a record.

        The promise is for every owner: for the content of all records that the owner has, alone or with others. Who
        owns which record counts as public (fixed-graph DP of [GMM25]). That somebody owns a record is not protected: if
        an owner came or went, other records might be kept, of owners who share no record with that owner. Labels and
        features decide nothing here.

        Args:
            owners: N collections of ids (lists, sets, arrays), all ids of one sortable type; or a table of ids (N, m).
                One id is one owner, in whichever column: give patients and hospitals different ids. An owner counts
                once per record.
            buckets_per_owner: k, at least 1, and at most the number of different sets of owners. A larger k keeps more
                records, and epsilon for an owner is larger.
            unit: what an owner is ("user", "patient or hospital").

        Returns:
            The partition of the kept records, with ``kept`` and ``left_out``; its ``buckets_per_unit`` is the most
            buckets that an owner has, which may be below ``buckets_per_owner``.

        Raises:
            TypeError, ValueError: ``buckets_per_owner`` is out of range; a record without owners, an id that is missing
                or whose type differs from the first; the message names the record.

        Example:
            >>> messages = [["al", "bo"], ["bo"], ["cy", "al"], ["bo", "al"]]
            >>> partition = Partition.by_owners(messages, unit="user")
            >>> partition, partition.names
            (Partition(2 records, 1 buckets, unit='user', 2 records left out), ('user al and bo',))
            >>> partition.kept.tolist()
            [0, 3]
        """
        sets = OwnerSets.of(owners, unit)
        limit = checks.integer("buckets_per_owner", buckets_per_owner, minimum=1)
        if limit > max(1, len(sets)):
            raise ValueError(
                f"buckets_per_owner is {limit}, but the records have {len(sets)} different sets of owners; use at most "
                "that many"
            )
        chosen = sets.bounded(limit)
        kept = np.flatnonzero(chosen[sets.of_record])
        return cls(
            (np.cumsum(chosen) - 1)[sets.of_record[kept]],
            unit,
            Provenance.OWNERS,
            tuple(f"{unit} {name}" for name in sets.names(chosen)),
            buckets_per_unit=sets.most_per_owner(chosen),
            kept=kept,
            left_out=len(sets.of_record) - len(kept),
        )

    @classmethod
    def by_kmeans(
        cls, features: ArrayLike | Rows, labels: ArrayLike, clusters_per_class: int, *, seed: int = 0
    ) -> Partition:
        """Make subclasses by k-means inside every class ([Z20] section IV.C, k_sub = clusters_per_class).

        The clusters are fitted on the private records, so one record can change the bucket of others. The guarantee is
        then conditional on the partition, and its statement says so. Use :meth:`by_nearest_centroid` to avoid this.

        Args:
            features: float array (N, ...), flattened to (N, d); or records outside the memory, of which one class at a
                time is read.
            labels: int array (N,), classes 0..C-1.
            clusters_per_class: clusters in each class, at least 1 and at most the smallest class.
            seed: seed of k-means++.
        """
        from sklearn.cluster import KMeans  # noqa: PLC0415  (1 s to import, rarely needed)

        outside = hasattr(features, "shape") and not hasattr(features, "__array__")
        rows: Any = features if outside else np.asarray(features)
        ids = _labels(labels)
        _same_length(rows, ids)
        if clusters_per_class < 1:
            raise ValueError(f"clusters_per_class is {clusters_per_class}; it must be at least 1")
        counts = np.bincount(ids)
        if counts.min(initial=clusters_per_class) < clusters_per_class:
            small = int(counts.argmin())
            raise ValueError(
                f"class {small} has {counts[small]} records, fewer than clusters_per_class={clusters_per_class}; "
                "use fewer clusters"
            )
        bucket_of = np.empty(len(ids), dtype=np.int64)
        for k in range(len(counts)):
            inside = np.flatnonzero(ids == k)
            own = rows[torch.from_numpy(inside)] if outside else rows[inside]
            # One start of k-means++ is enough: the partition does not have to be the best of several.
            fit = KMeans(clusters_per_class, n_init=1, random_state=seed).fit(_features(own, inside))
            bucket_of[inside] = k * clusters_per_class + fit.labels_
        names = tuple(f"class {k} cluster {j}" for k in range(len(counts)) for j in range(clusters_per_class))
        return cls(bucket_of, "subclass", Provenance.FITTED, names)

    @classmethod
    def by_nearest_centroid(cls, features: ArrayLike, centroids: ArrayLike, labels: ArrayLike) -> Partition:
        """Make subclasses by the nearest of PUBLIC centroids: each record's bucket depends on that record alone.

        Args:
            features: float array (N, ...); flattened to (N, d).
            centroids: float array (C, k, ...), k centroids for every class, which must not depend on the private
                records; flattened to (C, k, d).
            labels: int array (N,), classes 0..C-1.
        """
        from sklearn.metrics import pairwise_distances_argmin  # noqa: PLC0415  (1 s to import)

        rows, ids = _features(features), _labels(labels)
        _same_length(rows, ids)
        centres = np.asarray(centroids, dtype=np.float64)
        classes, per_class = centres.shape[:2]
        centres = centres.reshape(classes, per_class, -1)
        if centres.shape[2] != rows.shape[1]:
            raise ValueError(f"centroids have {centres.shape[2]} features, the records have {rows.shape[1]}")
        if ids.max(initial=-1) >= classes:
            raise ValueError(f"labels go up to {ids.max()}, but there are centroids for {classes} classes")
        bucket_of = np.empty(len(ids), dtype=np.int64)
        for k in range(classes):
            inside = ids == k
            if inside.any():
                bucket_of[inside] = k * per_class + pairwise_distances_argmin(rows[inside], centres[k])
        names = tuple(f"class {k} cluster {j}" for k in range(classes) for j in range(per_class))
        return cls(bucket_of, "subclass", Provenance.PUBLIC, names)


def _labels(labels: ArrayLike) -> IntArray:
    # A copy, because the partition makes its array read-only, and the caller's array must stay writable.
    ids = np.asarray(whole(labels)).copy()
    if ids.ndim != 1 or (len(ids) and not np.issubdtype(ids.dtype, np.integer)):
        raise ValueError(f"labels have shape {ids.shape} and type {ids.dtype}; expected integers (N,)")
    return ids.astype(np.int64)


def _features(features: ArrayLike, numbers: IntArray | None = None) -> NDArray[np.float64]:
    """Return features (N, d) of records; their numbers, for the error, are 0..N-1 if they are not given."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows.reshape(len(rows), -1)
    if not np.isfinite(rows).all():
        wrong = int((~np.isfinite(rows)).any(1).argmax())
        raise ValueError(f"features of record {wrong if numbers is None else numbers[wrong]} are not finite")
    return rows


def _same_length(rows: Sized, ids: IntArray) -> None:
    if len(rows) != len(ids):
        raise ValueError(f"labels have {len(ids)} entries, features have {len(rows)}; they must be equal")
