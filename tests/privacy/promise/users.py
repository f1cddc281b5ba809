"""The records of eight users, of which the last one may be replaced."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["vectors", "images", "sequences", "words", "tokens"]

SIZES = (3, 4, 2, 5, 1, 4, 3, 6)
"""The last one is the largest, so that it comes last in a shared batch too, and the random numbers that a forward pass
draws for the others are the same whatever it has."""

REPLACED_SIZE = 20
USERS, CLASSES, FEATURES, LENGTH, VOCABULARY = len(SIZES), 3, 6, 5, 12
PADDING = -100


def largest_user() -> int:
    """Records of the largest user, if the last one is not replaced."""
    return max(SIZES)


def users(kind: Kind, *, replaced: bool) -> list[tuple[Tensor, Tensor]]:
    """Records and labels of every user.

    vectors (n, 6), images (n, 1, 6, 6), sequences (n, 5, 6) and words (n, 5) have the label 0, rarely 1, and 2 in the
    replaced user only; tokens (n, 5) have a label each, of twelve, or are padding.
    """
    generator = torch.Generator().manual_seed(18)
    found = [_user(kind, size, generator) for size in SIZES]
    if replaced:
        found[-1] = _other(kind, generator)
    return found


def _user(kind: Kind, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if kind in ("words", "tokens"):
        x = torch.randint(0, VOCABULARY // 2, (size, LENGTH), generator=generator)
        if kind == "tokens":
            y = torch.full_like(x, PADDING)
            y[:, 0] = torch.randint(0, 2, (size,), generator=generator)  # one token of five is no padding
            return x, y
    else:
        x = 0.6 + 0.5 * torch.randn(size, *_shape(kind), generator=generator)
    rare = torch.rand(size, generator=generator)
    return x, (rare > 0.9).long()


def _other(kind: Kind, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A user unlike the others: more records, far away, all of a rare label, nothing padded."""
    size = REPLACED_SIZE
    if kind in ("words", "tokens"):
        x = torch.randint(VOCABULARY // 2, VOCABULARY, (size, LENGTH), generator=generator)
        y = torch.full_like(x, VOCABULARY - 1)
        return x, y if kind == "tokens" else torch.full((size,), CLASSES - 1)
    x = 20 + 40 * torch.randn(size, *_shape(kind), generator=generator)
    return x, torch.full((size,), CLASSES - 1)


def _shape(kind: Kind) -> tuple[int, ...]:
    return {"vectors": (FEATURES,), "images": (1, FEATURES, FEATURES), "sequences": (LENGTH, FEATURES)}[kind]
