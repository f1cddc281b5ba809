"""Positions of a latent search: rows of latent vectors, and the images that a generator makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dpmi.attacks.priors import Generator

from .starts import child_generator

#: Approximate number of values that a row draws from its generator at a time.
_BLOCK = 2**14


class Position(Protocol):
    """n independent rows, each of which makes ``draws`` images at a time."""

    draws: int

    def parameters(self) -> list[Tensor]:
        """Return the parameters of the search: leaf tensors of shape (n, ...)."""

    def images(self, rows: slice) -> Tensor:
        """Return images (len(rows) * draws, C, H, W) with gradients; the images of a row are adjacent."""

    def penalty(self, rows: slice) -> Tensor | float:
        """Return the cost's term besides the identity loss, (len(rows),) or 0."""

    def advance(self) -> None:
        """Project the parameters after a step, and draw the noise of the next images."""


class Latents:
    """One latent vector per row.

    Args:
        generator: makes the images.
        start: (n, latent_size).
        labels: int64 (n,), for a conditional generator.
        limit: entries are clamped to [-limit, limit] after each step; None means no clamp.
    """

    draws = 1

    def __init__(
        self, generator: Generator, start: Tensor, *, labels: Tensor | None = None, limit: float | None = None
    ) -> None:
        self._generator = generator
        self._labels = labels
        self._limit = limit
        self._latents = start.clone().requires_grad_()

    def parameters(self) -> list[Tensor]:
        """Return the latent vectors."""
        return [self._latents]

    def images(self, rows: slice) -> Tensor:
        """Return the images of the latent vectors."""
        labels = None if self._labels is None else self._labels[rows]
        return self._generator(self._latents[rows], labels)  # type: ignore[no-any-return]

    def penalty(self, rows: slice) -> float:
        """Return 0."""
        return 0.0

    def advance(self) -> None:
        """Clamp the latent vectors."""
        if self._limit is not None:
            with torch.no_grad():
                self._latents.clamp_(-self._limit, self._limit)


class Noise:
    """Standard normal noise for each row, which depends only on the seed, the row's class and its restart.

    Args:
        labels: int64 (n,); the rows of a class are adjacent.
        per_class: number of rows for each class.
        size: number of values per row and draw.
        seed: seed of all noise.
        first: restart number of the first row of each class; rows with different numbers draw different noise.
    """

    def __init__(self, labels: Tensor, *, per_class: int, size: int, seed: int, first: int = 0) -> None:
        self._generators = [
            child_generator(seed, label, first + row % per_class) for row, label in enumerate(labels.tolist())
        ]
        self._size = size
        self._device = labels.device
        self._block: Iterator[Tensor] = iter(())

    def draw(self) -> Tensor:
        """Return the next noise (n, size)."""
        following = next(self._block, None)
        if following is None:
            count = max(1, _BLOCK // self._size)
            drawn = [torch.randn(count, self._size, generator=own) for own in self._generators]
            self._block = iter(torch.stack(drawn, dim=1).to(self._device))
            following = next(self._block)
        return following


def starting_latents(labels: Tensor, *, per_class: int, size: int, seed: int) -> Tensor:
    """Return latent vectors (R * per_class, size) from N(0, I); each depends only on the seed, its class and number.

    Args:
        labels: int64 (R,).
        per_class: number of vectors for each class; the vectors of a class are adjacent.
        size: length of a vector.
        seed: seed of all vectors.

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
