"""Halves of the units of a data set: a random half trains the target, the other half trains nothing.

A unit is a subclass, a record or a user. An attacker who has no access to the target cannot tell a unit that is in from
one that is out, because chance alone decides. This makes the chance level of :func:`dpmi.metrics.unit_auc` exact.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dpmi.privacy import Partition

from .split import Split

Unit = Literal["subclass", "record", "user"]
"""What one unit of a data set is."""


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a data set's training images, in groups of which one half each is drawn.

    Args:
        unit: what one unit is.
        of: int64 (N,), the unit of each training image, 0..U-1.
        group: int64 (U,), the group of each unit, 0..G-1: its class, or one group for all users.
    """

    unit: Unit
    of: Tensor
    group: Tensor

    def records(self, split: Split, kept: Tensor) -> Tensor:
        """Return which training images are in, bool (N,).

        Args:
            split: the data set of these units.
            kept: bool (U,), which units are in.

        Raises:
            ValueError: a class has no image in this half.
        """
        inside = kept[self.of]
        missing = set(range(split.num_classes)) - set(split.train.labels[inside].tolist())
        if missing:
            raise ValueError(
                f"class {split.class_names[min(missing)]!r} of {split} has no image in a half of the units; every "
                f"class needs images of more {self.unit}s"
            )
        return inside

    def part(self, split: Split, kept: Tensor) -> Split:
        """Return the data set of the target: only the training images of some units; the rest stays as it is.

        Subclasses become the units of its training images, which are the buckets of subclass-dp. Users are their units
        already.

        Args:
            split, kept: as for :meth:`records`.

        Raises:
            ValueError: a class has no image in this half.
        """
        train = split.train
        if self.unit == "subclass":
            train = dataclasses.replace(train, units=self.of)
        return dataclasses.replace(split, train=train.cut(self.records(split, kept)))


def divide(split: Split, unit: Unit, *, clusters_per_class: int) -> Units:
    """Divide the training images of a data set into units.

    Args:
        split: the data set.
        unit: "subclass" divides every class by k-means on the pixels, as in [Z20] section IV.C.
        clusters_per_class: number of subclasses of each class, at least 2; only for "subclass".

    Raises:
        ValueError: a class has fewer images than clusters, or the unit is a user and the images have no units.
    """
    train = split.train
    if unit == "record":
        return Units(unit, torch.arange(len(train)), train.labels)
    if unit == "subclass":
        found = Partition.by_kmeans(train.images, train.labels.numpy(), clusters_per_class, seed=0)
        classes = torch.arange(split.num_classes)
        return Units(unit, torch.tensor(found.bucket_of), classes.repeat_interleave(clusters_per_class))
    if train.units is None:
        raise ValueError(
            f"unit 'user' needs the user of every image, and {split} has no units; use a data set with users, or the "
            "unit 'subclass' or 'record'"
        )
    users, of = torch.unique(train.units, return_inverse=True)
    return Units(unit, of, torch.zeros_like(users))


@dataclass(frozen=True, kw_only=True)
class HalfDraw:
    """How a half is drawn: a random half of every group of units, rounded down, or its complement.

    Args:
        seed: seed of the draw.
        complement: whether the units that were not drawn are in.

    >>> units = Units("record", torch.arange(5), torch.tensor([0, 0, 0, 1, 1]))
    >>> first = HalfDraw(seed=0).kept(units)
    >>> second = HalfDraw(seed=0, complement=True).kept(units)
    >>> bool((first ^ second).all()), int(first[:3].sum()), int(first[3:].sum())
    (True, 1, 1)
    """

    seed: int
    complement: bool = False

    def kept(self, units: Units) -> Tensor:
        """Return which units are in, bool (U,)."""
        generator = torch.Generator().manual_seed(self.seed)
        kept = torch.zeros(len(units.group), dtype=torch.bool)
        for group in torch.unique(units.group):
            members = (units.group == group).nonzero()[:, 0]
            order = torch.randperm(len(members), generator=generator)
            kept[members[order[: len(members) // 2]]] = True
        return ~kept if self.complement else kept
