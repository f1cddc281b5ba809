"""The loop of latent attacks, on costs whose minimum is known."""

from typing import Any

import torch
from torch import Tensor, nn

from dpmi.attacks import Budget, Target
from dpmi.attacks.priors import Generator
from dpmi.attacks.stages.latents import Latents, starting_latents
from dpmi.attacks.stages.search import PHYSICAL_IMAGES, Cost, Outcome, final_images, search

SIZE = 4
LABELS = torch.tensor([0, 1, 2])


class _Shows(Generator):
    def __init__(self) -> None:
        super().__init__(SIZE, (1, 1, SIZE))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return latents.view(-1, 1, 1, SIZE)


def _target(budget: Budget | None = None) -> Target:
    return Target(nn.Sequential(nn.Flatten(), nn.Linear(SIZE, 3)), budget=budget)


def _silent(done: int, total: int) -> None:
    """Report nothing."""


def _bowl(images: Tensor, labels: Tensor) -> Tensor:
    """Lowest, 0, where every pixel is the label."""
    return (images.flatten(1) - labels[:, None]).square().sum(dim=1)


def _run(position: Latents, cost: Cost = _bowl, iterations: int = 50, **options: Any) -> Outcome:
    optimizer = torch.optim.SGD(position.parameters(), lr=0.2)
    return search(
        options.pop("target", _target()),
        LABELS,
        position,
        cost,
        optimizer,
        iterations=iterations,
        progress=_silent,
        **options,
    )


def _start() -> Latents:
    return Latents(_Shows(), starting_latents(LABELS, per_class=1, size=SIZE, seed=0))


def test_finds_the_minimum_of_every_row() -> None:
    position = _start()
    outcome = _run(position)
    assert (outcome.costs < 1e-8).all()
    torch.testing.assert_close(
        final_images(position, 3).flatten(1), LABELS[:, None].expand(3, SIZE).float(), atol=1e-4, rtol=0
    )
    assert not outcome.diverged.any()


def test_keeps_the_best_position_not_the_last() -> None:
    """With a step that overshoots, the start is best."""
    position = Latents(_Shows(), LABELS[:, None].repeat(1, SIZE).float() + 0.1)
    start = final_images(position, 3)
    optimizer = torch.optim.SGD(position.parameters(), lr=1.5)
    outcome = search(_target(), LABELS, position, _bowl, optimizer, iterations=5, progress=_silent)
    assert outcome.iterations.tolist() == [0, 0, 0]
    assert torch.equal(final_images(position, 3), start)
    outcome = _run(_start(), iterations=5, keep_last=True)
    assert outcome.iterations.tolist() == [5, 5, 5]


def test_a_row_that_is_not_finite_stays_where_it_was_and_the_others_go_on() -> None:
    calls = 0

    def cost(images: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.where((labels == 1) & (calls > 10), torch.nan, _bowl(images, labels))

    position = _start()
    outcome = _run(position, cost)
    assert outcome.diverged.tolist() == [False, True, False]
    assert outcome.iterations[1] == 9
    assert final_images(position, 3).isfinite().all()
    assert (outcome.costs[[0, 2]] < 1e-8).all()


def test_latents_stay_inside_their_limit() -> None:
    position = Latents(_Shows(), torch.zeros(3, SIZE), limit=1.0)
    _run(position)
    assert final_images(position, 3).abs().max() <= 1


def test_rows_beyond_one_physical_batch_are_searched_alike() -> None:
    labels = torch.zeros(PHYSICAL_IMAGES + 3, dtype=torch.int64)
    position = Latents(_Shows(), starting_latents(labels, per_class=1, size=SIZE, seed=0))
    optimizer = torch.optim.SGD(position.parameters(), lr=0.2)
    seen: list[int] = []

    def cost(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return _bowl(images, labels)

    outcome = search(_target(), labels, position, cost, optimizer, iterations=30, progress=_silent)
    assert set(seen) == {PHYSICAL_IMAGES, 3}
    assert (outcome.costs < 1e-6).all()


def test_schedule_scales_the_learning_rate() -> None:
    position = _start()
    before = final_images(position, 3)
    _run(position, iterations=3, keep_last=True, schedule=lambda _: 0.0)
    assert torch.equal(final_images(position, 3), before)


def test_ends_when_the_budget_does_not_pay_for_another_iteration() -> None:
    target = _target(Budget(queries=12))

    def cost(images: Tensor, labels: Tensor) -> Tensor:
        target.logits(images)
        return _bowl(images, labels)

    outcome = _run(_start(), cost, target=target, keep_last=True)
    assert target.queries == 12
    assert target.stopped_by == "queries"
    assert outcome.iterations.tolist() == [3] * 3
