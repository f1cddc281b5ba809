"""Secret orthogonal directions in the space of the parameters, made anew for every step and never stored."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

_SIGNS = torch.from_numpy(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1) * 2.0 - 1.0).float()
"""The eight signs of every byte, (256, 8); looking them up takes half the time of unpacking bits."""


class Directions:
    """One unit direction per canary and step: random signs on the canary's own coordinates.

    Coordinate i belongs to canary i mod m, so the m directions are exactly orthogonal, and all of them together cost
    one pass over the parameters. The sum of all other gradients is independent of the signs, so its projection has mean
    0 and a variance of about its squared norm / d. New signs in every step keep the canaries from pushing the model in
    one direction.

    Args:
        canaries: m, at most the number of dimensions.
        dimensions: d.
        key: secret integer; it determines all signs.
        device: device of the vectors.
    """

    def __init__(self, canaries: int, dimensions: int, *, key: int, device: torch.device) -> None:
        self.canaries = canaries
        self.dimensions = dimensions
        self.key = key
        self._device = device
        self._rows = -(-dimensions // canaries)
        sizes = np.full(canaries, dimensions // canaries)
        sizes[: dimensions % canaries] += 1
        self._scale = torch.tensor(1.0 / np.sqrt(sizes), dtype=torch.float32, device=device)
        self._made: tuple[int, Tensor] | None = None

    def with_key(self, key: int) -> Directions:
        """Return directions of the same shape with another key."""
        return Directions(self.canaries, self.dimensions, key=key, device=self._device)

    def combination(self, step: int, weights: ArrayLike) -> Tensor:
        """Return the sum of the directions times weights (m,), as a vector (d,) float32."""
        factors = torch.as_tensor(np.asarray(weights), dtype=torch.float32, device=self._device)
        return (self._signs(step) * (factors * self._scale)).view(-1)[: self.dimensions]

    def scores(self, step: int, vector: Tensor) -> Tensor:
        """Return the dot product of a vector (d,) with every direction, (m,) float32."""
        padded = (
            vector
            if len(vector) == self._signs(step).numel()
            else _padded(vector, self._rows * self.canaries)
        )
        return (self._signs(step) * padded.view(self._rows, self.canaries)).sum(0) * self._scale

    def _signs(self, step: int) -> Tensor:
        """Return the signs of a step, (rows, m), zeros behind the last coordinate."""
        if self._made is None or self._made[0] != step:
            n = self._rows * self.canaries
            drawn = np.random.Generator(np.random.Philox(key=self.key, counter=step << 64)).bytes(-(-n // 8))
            rows = torch.from_numpy(np.frombuffer(drawn, dtype=np.uint8).astype(np.int32))
            signs = functional.embedding(rows, _SIGNS).view(-1)[:n].to(self._device)
            signs[self.dimensions :] = 0.0
            self._made = step, signs.view(self._rows, self.canaries)
        return self._made[1]


def _padded(vector: Tensor, length: int) -> Tensor:
    return torch.cat([vector, vector.new_zeros(length - len(vector))])
