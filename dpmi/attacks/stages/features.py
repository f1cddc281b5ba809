"""Positions of a search in the features between two blocks of a style-based generator."""

from __future__ import annotations

import torch
from torch import Tensor

from dpmi.attacks.priors import StyleGenerator
from dpmi.attacks.priors.style.network import Features

from .search import physical
from .styles import onto_l1_ball


class LayerFeatures:
    """One style per row, for all layers, and the input features of a block; each in an L1 ball around its start.

    The image of a search at a block is the sum of the RGB outputs of this block and those after it: the published
    network drops what the blocks before it contributed.

    Args:
        generator: makes the images.
        styles: (n, style_size), the starting styles.
        radius: radius of both balls.
        block: number of the block; the first block, 0, has no input features.
        hidden: input features of the block, (n, channels, side, side).
    """

    draws = 1

    def __init__(
        self,
        generator: StyleGenerator,
        styles: Tensor,
        *,
        radius: float,
        block: int = 0,
        hidden: Tensor | None = None,
    ) -> None:
        self._generator = generator
        self._radius = radius
        self._block = block
        self._starts = [styles.detach()] if hidden is None else [styles.detach(), hidden.detach()]
        self._moved = [start.clone().requires_grad_() for start in self._starts]

    def parameters(self) -> list[Tensor]:
        """Return the styles, and the features if there are any."""
        return self._moved

    def images(self, rows: slice) -> Tensor:
        """Return the images of the styles and features."""
        name = self._generator.synthesis.blocks[self._block]
        ws = self._generator.repeat(self._moved[0][rows])
        return self._generator.images(ws, start_block=name, features=self._features(rows))

    def penalty(self, rows: slice) -> float:
        """Return 0: the balls are enforced by projection."""
        return 0.0

    def advance(self) -> None:
        """Project onto the balls."""
        with torch.no_grad():
            for moved, start in zip(self._moved, self._starts, strict=True):
                moved.copy_(start + onto_l1_ball(moved - start, self._radius))

    def at_next_block(self, *, radius: float) -> LayerFeatures:
        """Return the position at the next block, which starts from the input features that this position gives it."""
        names = self._generator.synthesis.blocks
        made = []
        with torch.no_grad():
            for rows in physical(len(self._moved[0])):
                features = self._generator.synthesis(
                    self._generator.repeat(self._moved[0][rows]),
                    start_block=names[self._block],
                    features=self._features(rows),
                    end_block=names[self._block + 1],
                )
                assert features.hidden is not None
                made.append(features.hidden)
        return LayerFeatures(
            self._generator, self._moved[0], radius=radius, block=self._block + 1, hidden=torch.cat(made)
        )

    def _features(self, rows: slice) -> Features:
        return Features() if self._block == 0 else Features(self._moved[1][rows])
