"""Positions of a latent search: rows of latent vectors, and the images that a generator makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dpmi.attacks.priors import Generator

from .starts import child_generator
from .views import NUMBERS, Augment

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


class Views:
    """Random views of the images of another position, whose rows are searched; a position of a search.

    Args:
        position: makes one image per row.
        view: see :func:`.views.augmentation`.
        labels: int64 (n,); the rows of a class are adjacent.
        per_class: number of rows for each class.
        draws: views of each image per step.
        seed: seed of all views; those of a row depend only on the seed, its class and its number.
    """

    def __init__(
        self, position: Position, view: Augment, *, labels: Tensor, per_class: int, draws: int, seed: int
    ) -> None:
        self.draws = draws
        self._position = position
        self._view = view
        # Row numbers from per_class, because the starting latents have the numbers before.
        self._noise = Noise(
            labels, per_class=per_class, size=draws * NUMBERS, seed=seed, first=per_class, uniform=True
        )
        self._drawn = self._noise.draw()

    def parameters(self) -> list[Tensor]:
        """Return the parameters of the other position."""
        return self._position.parameters()

    def images(self, rows: slice) -> Tensor:
        """Return the views of this step."""
        images = self._position.images(rows).repeat_interleave(self.draws, dim=0)
        return self._view(images, self._drawn[rows].reshape(len(images), NUMBERS))

    def penalty(self, rows: slice) -> Tensor | float:
        """Return the penalty of the other position."""
        return self._position.penalty(rows)

    def advance(self) -> None:
        """Project the parameters and draw the next views."""
        self._position.advance()
        self._drawn = self._noise.draw()


class Noise:
    """Standard normal or uniform noise for each row, which depends only on the seed, the row's class and its restart.

    Args:
        labels: int64 (n,); the rows of a class are adjacent.
        per_class: number of rows for each class.
        size: number of values per row and draw.
        seed: seed of all noise.
        first: restart number of the first row of each class; rows with different numbers draw different noise.
        uniform: whether the noise is uniform in [0, 1).
    """

    def __init__(
        self, labels: Tensor, *, per_class: int, size: int, seed: int, first: int = 0, uniform: bool = False
    ) -> None:
        self._draw = torch.rand if uniform else torch.randn
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
            drawn = [self._draw(count, self._size, generator=own) for own in self._generators]
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
