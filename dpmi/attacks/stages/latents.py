"""Where a latent search is: rows of latent vectors, or of distributions of them, and the images they make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dpmi.attacks.priors import Generator

from .starts import child_generator

#: Numbers that a row takes from its generator at a time, about.
_BLOCK = 2**14


class Position(Protocol):
    """n rows, each of which makes ``draws`` images at a time; rows know nothing of each other."""

    draws: int

    def parameters(self) -> list[Tensor]:
        """Return what the search moves: leaves of shape (n, ...)."""

    def images(self, rows: slice) -> Tensor:
        """Return images (len(rows) * draws, C, H, W) in the graph, those of a row next to each other."""

    def penalty(self, rows: slice) -> Tensor | float:
        """Return what the cost adds to the identity loss, (len(rows),) or 0."""

    def advance(self) -> None:
        """After a step: project what the step moved, and draw what the next images need."""


class Latents:
    """One latent vector per row.

    Args:
        generator: makes the images.
        start: (n, latent_size).
        labels: int64 (n,), for a generator that is told the class.
        limit: entries are clamped to [-limit, limit] after each step; None leaves them.
    """

    draws = 1

    def __init__(
        self, generator: Generator, start: Tensor, *, labels: Tensor | None = None, limit: float | None = None
    ) -> None:
        """Start from there."""
        self._generator = generator
        self._labels = labels
        self._limit = limit
        self._latents = start.clone().requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the latent vectors."""
        return [self._latents]

    def images(self, rows: slice) -> Tensor:
        """Return their images."""
        labels = None if self._labels is None else self._labels[rows]
        return self._generator(self._latents[rows], labels)  # type: ignore[no-any-return]

    def penalty(self, rows: slice) -> float:
        """Return nothing: a latent is as likely as another."""
        return 0.0

    def advance(self) -> None:
        """Clamp."""
        if self._limit is not None:
            with torch.no_grad():
                self._latents.clamp_(-self._limit, self._limit)


class Noise:
    """Standard normal numbers for each row, which depend on its class and restart and on nothing else.

    Args:
        labels: int64 (n,), rows of a class next to each other.
        per_class: rows of each class.
        size: numbers per row and draw.
        seed: of all.
        first: number of the first row of each class; rows of another number draw other numbers.
    """

    def __init__(self, labels: Tensor, *, per_class: int, size: int, seed: int, first: int = 0) -> None:
        """Give each row its generator."""
        self._generators = [
            child_generator(seed, label, first + row % per_class) for row, label in enumerate(labels.tolist())
        ]
        self._size = size
        self._device = labels.device
        self._block: Iterator[Tensor] = iter(())

    def draw(self) -> Tensor:
        """Return the next (n, size)."""
        following = next(self._block, None)
        if following is None:
            count = max(1, _BLOCK // self._size)
            drawn = [torch.randn(count, self._size, generator=own) for own in self._generators]
            self._block = iter(torch.stack(drawn, dim=1).to(self._device))
            following = next(self._block)
        return following


def starting_latents(labels: Tensor, *, per_class: int, size: int, seed: int) -> Tensor:
    """Return latent vectors (R * per_class, size) of N(0, I), each drawn by its class and number alone.

    Args:
        labels: int64 (R,).
        per_class: vectors for each; those of a class are next to each other.
        size: length of a vector.
        seed: of all.

    >>> both = starting_latents(torch.tensor([3, 1]), per_class=2, size=4, seed=0)
    >>> torch.equal(both[2:], starting_latents(torch.tensor([1]), per_class=2, size=4, seed=0))
    True
    """
    drawn = [
        torch.randn(size, generator=child_generator(seed, label, number))
        for label in labels.tolist()
        for number in range(per_class)
    ]
    return torch.stack(drawn).to(labels.device)
