"""Checks of the draws: none for Poisson sampling, one for every way to break it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dpmi.privacy.audit.canaries import Coins
from dpmi.privacy.audit.draw_record import DrawRecord

BUCKETS, CANARIES, Q = 12, 40, 0.2
COINS = Coins.toss(CANARIES, np.random.default_rng(0))

Drawing = Callable[[np.random.Generator, int], NDArray[np.bool_]]


def poisson(generator: np.random.Generator, step: int = 0) -> NDArray[np.bool_]:
    return generator.random(BUCKETS + CANARIES) < Q


def record(draw: Drawing, steps: int = 120, seed: int = 0) -> DrawRecord:
    found, generator = DrawRecord(BUCKETS, COINS), np.random.default_rng(seed)
    for step in range(steps):
        found.add(np.flatnonzero(draw(generator, step)))
    return found


def p_values(found: DrawRecord, q: float = Q) -> dict[str, float]:
    return {check.name: check.p_value for check in found.checks(q)}


def least(values: dict[str, float], word: str) -> float:
    (p,) = (p for name, p in values.items() if word in name)
    return p


@pytest.mark.parametrize("steps", [1, 2, 200])
def test_poisson_sampling_passes(steps: int) -> None:
    values = p_values(record(poisson, steps))
    assert min(values.values()) > 1e-3
    assert len(values) == (6 if steps == 1 else 8)


def test_few_runs_of_poisson_sampling_look_unusual() -> None:
    found = np.array([list(p_values(record(poisson, 30, seed)).values()) for seed in range(150)])
    assert ((found < 0.05).mean(0) <= 0.12).all()


def fixed_size(generator: np.random.Generator, _: int) -> NDArray[np.bool_]:
    return np.argsort(np.argsort(generator.random(BUCKETS + CANARIES))) < 10


def never_empty(generator: np.random.Generator, _: int) -> NDArray[np.bool_]:
    drawn = generator.random(BUCKETS + CANARIES) < 0.01
    return drawn if drawn.any() else never_empty(generator, _)


def favoured(generator: np.random.Generator, _: int) -> NDArray[np.bool_]:
    rate = np.full(BUCKETS + CANARIES, Q)
    rate[BUCKETS:] = np.where(COINS.heads, 0.27, 0.13)
    return generator.random(BUCKETS + CANARIES) < rate


BROKEN: dict[str, tuple[Drawing, str, float]] = {
    "canaries too often": (
        lambda g, _: g.random(52) < np.where(np.arange(52) < BUCKETS, Q, 0.25),
        "share of the canaries",
        Q,
    ),
    "buckets too rarely": (
        lambda g, _: g.random(52) < np.where(np.arange(52) < BUCKETS, 0.12, Q),
        "share of the buckets",
        Q,
    ),
    "one bucket always": (lambda g, _: (g.random(52) < Q) | (np.arange(52) == 3), "most unusual bucket", Q),
    "a fixed number": (fixed_size, "standard deviation of the number", 10 / 52),
    "all or none": (lambda g, _: np.full(52, g.random() < Q), "standard deviation of the number", Q),
    "never nothing": (never_empty, "draw nothing", 0.01),
    "by the coin": (favoured, "canaries that are in", Q),
    "the draws of an earlier step": (
        lambda _, step: np.random.default_rng(step % 60).random(52) < Q,
        "same as an earlier step",
        Q,
    ),
    "the same again": (
        lambda _, step: np.random.default_rng(step // 2).random(52) < Q,
        "consecutive steps",
        Q,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_draws_fail_their_check(name: str) -> None:
    draw, word, q = BROKEN[name]
    assert least(p_values(record(draw), q), word) < 1e-4


def test_every_bucket_in_every_step_passes_at_rate_1() -> None:
    assert min(p_values(record(lambda *_: np.ones(52, dtype=bool), 5), 1.0).values()) == 1.0


def test_goes_on_from_its_state() -> None:
    whole, first = record(poisson, 9), record(poisson, 4)
    rest = DrawRecord(BUCKETS, COINS)
    rest.load_state_dict(first.state_dict())
    generator = np.random.default_rng(0)
    for step in range(9):
        drawn = np.flatnonzero(poisson(generator))
        if step >= 4:
            rest.add(drawn)
    assert rest.checks(Q) == whole.checks(Q)
    assert np.array_equal(rest.of_canaries, whole.of_canaries)
