"""Directions: orthogonal units, new in every step, and a matter of the key alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpmi.privacy.audit.directions import Directions


def directions(canaries: int = 7, dimensions: int = 100, key: int = 5) -> Directions:
    return Directions(canaries, dimensions, key=key, device=torch.device("cpu"))


def matrix(of: Directions, step: int) -> torch.Tensor:
    return torch.stack([of.combination(step, np.eye(of.canaries)[j]) for j in range(of.canaries)])


@pytest.mark.parametrize(("canaries", "dimensions"), [(7, 100), (5, 100), (3, 3), (1, 9)])
def test_they_are_orthogonal_units(canaries: int, dimensions: int) -> None:
    rows = matrix(directions(canaries, dimensions), 3)
    assert rows.shape == (canaries, dimensions)
    torch.testing.assert_close(rows @ rows.T, torch.eye(canaries))


def test_scores_are_dot_products() -> None:
    of, vector = directions(), torch.randn(100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(of.scores(2, vector), matrix(of, 2) @ vector)
    weights = np.arange(7.0)
    torch.testing.assert_close(
        of.combination(2, weights), torch.tensor(weights, dtype=torch.float32) @ matrix(of, 2)
    )


def test_steps_and_keys_have_their_own_and_the_key_repeats_them() -> None:
    first, second = matrix(directions(), 0), matrix(directions(), 1)
    assert float((first * second).sum(1).abs().max()) < 0.9
    assert torch.equal(matrix(directions(), 0), first)
    assert torch.equal(matrix(directions(key=9).with_key(5), 1), second)
    assert not torch.equal(matrix(directions(key=6), 0), first)


def test_signs_are_fair() -> None:
    signs = directions(1, 40_000).combination(0, [1.0]) * 200
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.02
