"""Starting points of a search: one random generator for each class and restart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def child_generator(seed: int, label: int, restart: int) -> torch.Generator:
    """Return the generator of one class and restart.

    It depends only on the seed, the class and the restart. A class therefore draws the same numbers whichever other
    classes are attacked, and two classes or restarts never share a generator.

    >>> first, second = child_generator(0, 3, 1), child_generator(0, 3, 2)
    >>> first.initial_seed() != second.initial_seed()
    True
    """
    state = np.random.SeedSequence((seed, label, restart)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def starting_images(
    labels: Tensor, *, first: float, restarts: int, image_shape: tuple[int, int, int], seed: int
) -> Tensor:
    """Return the starting images of the searches; the restarts of a class are adjacent.

    Args:
        labels: int64 (R,).
        first: value of every pixel of restart 0, as the papers prescribe.
        restarts: searches per class; those after the first start from uniform noise.
        image_shape: (C, H, W).
        seed: seed of the noise.

    Returns:
        float32 (R * restarts, C, H, W) in [0, 1], on the labels' device.
    """
    images = torch.full((len(labels), restarts, *image_shape), first)
    for row, label in enumerate(labels.tolist()):
        for restart in range(1, restarts):
            images[row, restart].uniform_(generator=child_generator(seed, label, restart))
    return images.flatten(0, 1).to(labels.device)
