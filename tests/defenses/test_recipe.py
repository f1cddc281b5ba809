"""How long and how fast: the ranges of a recipe, and its schedule."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from dpmi.data import Split
from dpmi.defenses import NoDefense, Recipe, train

from .conftest import softmax, weights


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("schedule", "linear"),
        ("average", "mean"),
    ],
)
def test_bad_recipe(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} must be .* got {value!r}"):
        Recipe(**{"steps": 1, "learning_rate": 0.1, field: value})  # type: ignore[arg-type]


def test_cosine_schedule_ends_at_zero(split: Split) -> None:
    """Updates shrink to nothing at the end, and the first is that of the constant schedule."""

    def moves(schedule: str) -> list[float]:
        model = softmax()
        seen = [weights(model)]
        recipe = Recipe(steps=10, learning_rate=0.5, momentum=0.0, schedule=schedule)  # type: ignore[arg-type]
        fitting = partial(train, NoDefense(), model, split.train, recipe, seed=0)
        fitting(progress=lambda *_: seen.append(weights(model)))
        return [float((b - a).norm()) for a, b in pairwise(seen)]

    cosine, constant = moves("cosine"), moves("constant")
    assert cosine[0] == constant[0]
    assert cosine[-1] < 0.1 * constant[-1]


def test_the_tail_average_is_the_mean_of_the_last_half(split: Split) -> None:
    """Shorter trainings with the same seed show the weights on the way."""

    def after(steps: int, average: str = "none") -> torch.Tensor:
        model = softmax()
        recipe = Recipe(steps=steps, learning_rate=0.5, average=average)  # type: ignore[arg-type]
        return weights(train(NoDefense(), model, split.train, recipe, seed=0).model)

    mean = torch.stack([after(steps) for steps in (4, 5, 6)]).mean(dim=0)
    torch.testing.assert_close(after(6, "tail"), mean)
    assert not torch.allclose(after(6, "ema"), after(6))
