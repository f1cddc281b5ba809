"""How long and how fast: the ranges of a recipe, and its schedule."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch

from dpmi.data import Split
from dpmi.defenses import Batch, CALoR, ClassDP, NoDefense, Recipe, RecordDP, train

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
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("gamma", 0.0),
        ("gamma", 1.0),
        ("warm_up", -1),
        ("warm_up", 1),
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


@pytest.mark.parametrize(
    ("schedule", "milestones", "message"),
    [
        ("milestones", (), "needs milestones"),
        ("cosine", (3,), "no other has them"),
        ("milestones", (5, 3), "ascending"),
        ("milestones", (3, 3), "different"),
        ("milestones", (0, 3), "milestones must be at least 1"),
    ],
)
def test_bad_milestones(schedule: Any, milestones: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(steps=9, learning_rate=0.1, schedule=schedule, milestones=milestones)


def rates(recipe: Recipe) -> list[float]:
    """The learning rate of each update."""
    optimizer = recipe.optimizer_of([torch.nn.Parameter(torch.zeros(1))])
    scheduler, found = recipe.scheduler_of(optimizer), []
    for _ in range(recipe.steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return found


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("warm_up", [0, 4])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "milestones"])
def test_rates_are_the_formulas(schedule: Any, warm_up: int) -> None:
    """Linear to the first value, then constant, half a cosine to 0, or a factor at each milestone of the stage."""
    milestones = (6, 9) if schedule == "milestones" else ()
    recipe = Recipe(
        steps=12, learning_rate=0.8, schedule=schedule, warm_up=warm_up, milestones=milestones, gamma=0.5
    )
    after = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: (1 + math.cos(math.pi * (step - warm_up) / (12 - warm_up))) / 2,
        "milestones": lambda step: 0.5 ** sum(step >= each for each in milestones),
    }[schedule]
    expected = [
        0.8 * ((step + 1) / (warm_up + 1) if step < warm_up else after(step)) for step in range(recipe.steps)
    ]
    assert rates(recipe) == pytest.approx(expected, rel=1e-9)


def test_a_stage_that_is_shorter_than_the_warm_up_is_refused_before_training(split: Split) -> None:
    model = softmax()
    before = [p.clone() for p in model.parameters()]
    two_stages = CALoR(rank=4)
    shares = [share for _, share in two_stages.stages]
    assert len(shares) > 1
    with pytest.raises(ValueError, match="warm_up must be below the"):
        train(two_stages, model, split.train, Recipe(steps=20, learning_rate=0.1, warm_up=19), seed=0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_weight_decay_is_an_l2_term(optimizer: Any) -> None:
    """One update with it is one of a loss with decay / 2 times the squared weights."""
    found = []
    for decay, term in ((0.3, 0.0), (0.0, 0.3)):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        steps = Recipe(steps=1, learning_rate=0.1, optimizer=optimizer, weight_decay=decay).optimizer_of(
            [weight]
        )
        (weight.sum() + term / 2 * weight.square().sum()).backward()
        steps.step()
        found.append(weight.detach())
    torch.testing.assert_close(found[0], found[1])


def _network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)
        )


def test_bf16_is_a_step_under_autocast(split: Split) -> None:
    """The logits leave the model in 16 bits; the loss, the weights and their updates stay in float32."""
    recipe = Recipe(steps=1, learning_rate=0.5, momentum=0.0, batch_size=200, precision="bf16")
    found = train(NoDefense(), _network(), split.train, recipe, seed=0).model
    exact = train(
        NoDefense(), _network(), split.train, dataclasses.replace(recipe, precision="float32"), seed=0
    )
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    rows = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(0))[:200]
    model = _network()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(split.train.images[rows])
    assert logits.dtype == torch.bfloat16
    torch.nn.functional.cross_entropy(logits.float(), split.train.labels[rows]).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    torch.testing.assert_close(weights(found), weights(model), atol=1e-6, rtol=1e-4)
    change = weights(found) - weights(exact.model)
    assert 0 < float(change.norm()) < 0.02 * float((weights(exact.model) - weights(_network())).norm())


def test_the_loss_of_bf16_is_in_float32(split: Split) -> None:
    """A penalty, too, gets the outputs of layers in float32."""
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watching(NoDefense):
        def observed(self, model: torch.nn.Module, image_shape: tuple[int, int, int]) -> tuple[str, ...]:
            return ("1",)

        def penalty(self, batch: Batch) -> float:
            seen.append((batch.logits.dtype, batch.latents["1"].dtype, torch.is_autocast_enabled("cpu")))
            return 0.0

    train(Watching(), _network(), split.train, Recipe(steps=1, learning_rate=0.1, precision="bf16"), seed=0)
    assert seen == [(torch.float32, torch.float32, False)]


@pytest.mark.parametrize("kind", [ClassDP, RecordDP])
def test_a_private_training_in_bf16_is_refused(kind: Any, split: Split) -> None:
    model = softmax()
    defense = kind(noise_multiplier=1.0, sampling_rate=0.5, max_grad_norm=1.0)
    with pytest.raises(ValueError, match=r"bf16' is for trainings without a guarantee, and .*-dp has one"):
        train(defense, model, split.train, Recipe(steps=1, learning_rate=0.1, precision="bf16"), seed=0)
    assert torch.equal(weights(model), weights(softmax()))
