"""Synthetic users: training images of a data set without users, dealt out to users by a rule."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from accountants import checks

from .split import Split

LARGEST_USER = 200
"""Most images of one user with Zipf sizes."""

Size = int | Literal["zipf"]


def with_users(split: Split, *, size: Size, seed: int = 0) -> Split:
    """Return the data set with a user for each training image, as units 0..U-1.

    The images are shuffled and dealt out: with a number, every user gets as many images (the last one the rest); with
    "zipf", the number n of a user's images is drawn with probability proportional to 1 / n from 1 to
    :data:`LARGEST_USER`. Users do not differ otherwise, so a user's images have the classes of a random sample.

    Args:
        split: a data set whose training images have no units.
        size: images per user, or "zipf".
        seed: seed of the shuffle and of the sizes.

    Raises:
        ValueError: the images already have units, the size is out of range, or there would be fewer than two users.

    >>> from dpmi import data
    >>> with_users(data.load("digits"), size=10).train.units.bincount()[:3]
    tensor([10, 10, 10])
    """
    train = split.train
    if train.units is not None:
        raise ValueError(
            f"users are given, but the images of {split} already have units; leave users out, to use those"
        )
    generator = torch.Generator().manual_seed(seed)
    images = len(train)
    if size == "zipf":
        weights = 1.0 / torch.arange(1, LARGEST_USER + 1, dtype=torch.float64)
        sizes = torch.multinomial(weights, images, replacement=True, generator=generator) + 1
    else:
        checks.integer("users.size", size, minimum=1)
        sizes = torch.full((-(-images // size),), size)
    # The user of the k-th dealt image is the number of users who are complete before it.
    dealt = torch.searchsorted(sizes.cumsum(0), torch.arange(images), right=True)
    if int(dealt[-1]) < 1:
        raise ValueError(
            f"users.size must be below {images}, the number of training images, for more than one user; got {size}"
        )
    units = torch.empty(images, dtype=torch.int64)
    units[torch.randperm(images, generator=generator)] = dealt
    return dataclasses.replace(split, train=dataclasses.replace(train, units=units))
