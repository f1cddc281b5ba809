"""Roles of classes: a random half of a data set's classes trains the target, the others are decoys that train nothing.

An attacker who has no access to the target cannot tell a private class from a decoy, because chance alone decides which
is which. This makes the chance level of :func:`dpmi.metrics.linkage` exact.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from .images import digests
from .lazy import taken
from .split import ImageSet, Split

FEWEST = 2
"""Minimum number of private classes, and of decoys."""


@dataclass(frozen=True)
class Roles:
    """The private classes and the decoys of one target.

    Args:
        private: classes of the data set; label k of the target is class ``private[k]``.
        decoys: other classes of the data set.

    Raises:
        ValueError: there are fewer than 2 private classes or 2 decoys, or a class has both roles.

    >>> from dpmi import data
    >>> digits = data.load("digits")
    >>> roles = Roles(private=(3, 0), decoys=(1, 2, 7))
    >>> target = roles.of(digits)
    >>> target.class_names, len(target.train), roles.candidates
    (('3', '0'), 239, 4)
    """

    private: tuple[int, ...]
    decoys: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("private", "decoys"):
            count = len(getattr(self, name))
            if count < FEWEST:
                raise ValueError(f"{name} must name at least {FEWEST} classes; got {count}")
        every = (*self.private, *self.decoys)
        twice = sorted({each for each in every if every.count(each) > 1})
        if twice:
            raise ValueError(f"private and decoys must be different classes; both name {twice}")

    @property
    def candidates(self) -> int:
        """Number K of candidates among which a private class is identified: itself and the decoys."""
        return 1 + len(self.decoys)

    def check(self, split: Split) -> None:
        """Raise a ValueError unless the data set has these classes, and no image of both a private class and a decoy.

        A decoy with an image in the target's training set would train the target.
        """
        last = max(*self.private, *self.decoys)
        if last >= split.num_classes:
            raise ValueError(f"class {last} is not in {split}")
        labels = split.train.labels
        private, decoys = (
            set(digests(taken(split.train.images, torch.isin(labels, torch.tensor(classes)))))
            for classes in (self.private, self.decoys)
        )
        shared = private & decoys
        if shared:
            raise ValueError(
                f"{len(shared)} images of {split} belong to both a private class and a decoy, so the decoy would train "
                "the target; remove them from one of the classes"
            )

    def of(self, split: Split) -> Split:
        """Return the data set of the target: the private classes only, with labels in the order of ``private``.

        The public images stay as they are, so they show both roles or neither.

        Raises:
            ValueError: as :meth:`check`.
        """
        self.check(split)
        label = torch.full((split.num_classes,), -1)
        label[list(self.private)] = torch.arange(len(self.private))

        def part(images: ImageSet) -> ImageSet:
            kept = images.cut(label[images.labels] >= 0)
            return ImageSet(kept.images, label[kept.labels], kept.units)

        names = tuple(split.class_names[k] for k in self.private)
        return dataclasses.replace(split, train=part(split.train), test=part(split.test), class_names=names)


@dataclass(frozen=True, kw_only=True)
class FirstRoles:
    """Roles of a model that is trained already: the first classes are private, and the next are decoys.

    The chance level of linkage is exact only if chance decided which classes trained the model.

    Args:
        private: number of private classes, the classes of the model.
        decoys: number of decoys; None means all other classes.
    """

    private: int
    decoys: int | None = None

    def roles(self, classes: int) -> Roles:
        """Return the roles for a data set.

        Args:
            classes: number of its classes.

        Raises:
            ValueError: the data set has too few classes, or a number is below 2.
        """
        last = classes if self.decoys is None else self.private + self.decoys
        if last > classes or last - self.private < FEWEST:
            raise ValueError(
                f"linkage needs {self.private} private classes and at least {FEWEST} decoys; the data set has "
                f"{classes} classes"
            )
        return Roles(tuple(range(self.private)), tuple(range(self.private, last)))


@dataclass(frozen=True, kw_only=True)
class RoleDraw:
    """How roles are drawn: a random order of the classes, of which the first are private and the next are decoys.

    The swapped draw reads the drawn classes from the end, so decoys become private classes and conversely.

    Args:
        seed: seed of the order.
        swapped: whether it is the swapped draw.
        private: number of private classes; None means half of the classes, rounded down.
        decoys: number of decoys; None means as many, or all other classes if ``private`` is given.

    Raises:
        ValueError: a number is below 2.

    >>> first = RoleDraw(seed=0).roles(5)
    >>> second = RoleDraw(seed=0, swapped=True).roles(5)
    >>> set(first.private) == set(second.decoys), len(first.private), first.candidates
    (True, 2, 3)
    """

    seed: int
    swapped: bool = False
    private: int | None = None
    decoys: int | None = None

    def __post_init__(self) -> None:
        for name in ("private", "decoys"):
            count = getattr(self, name)
            if count is not None and count < FEWEST:
                raise ValueError(f"{name} must be at least {FEWEST}; got {count}")

    def roles(self, classes: int) -> Roles:
        """Return the roles for a data set.

        Args:
            classes: number of its classes.

        Raises:
            ValueError: the data set has fewer than 4 classes, or too few for these numbers.
        """
        if classes < 2 * FEWEST:
            raise ValueError(
                f"linkage needs at least {2 * FEWEST} classes, {FEWEST} private and {FEWEST} decoys; the data set has "
                f"{classes}"
            )
        private = classes // 2 if self.private is None else self.private
        decoys = (
            (classes // 2 if self.private is None else classes - private)
            if self.decoys is None
            else self.decoys
        )
        if private + decoys > classes or decoys < FEWEST:
            raise ValueError(
                f"private = {private} and {'at least 2' if self.decoys is None else decoys} decoys are more than the "
                f"{classes} classes of the data set; give smaller numbers of private classes and decoys"
            )
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(classes, generator=generator)[: private + decoys].tolist()
        if self.swapped:
            order.reverse()
        return Roles(tuple(order[:private]), tuple(order[private:]))
