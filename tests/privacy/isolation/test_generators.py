"""After a pass that read a number, its generators go on as if nothing had been drawn since."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dpmi.privacy.isolation.generators import Generators

LEGACY = np.random.mtrand._rand
Kind = tuple[Callable[[], Any], Callable[[Any], list[float]], Callable[[Any], object]]


def seeded_numpy(generator: np.random.Generator) -> None:
    generator.bit_generator.state = np.random.default_rng(5).bit_generator.state


def seeded_legacy() -> Any:
    LEGACY.seed(1)
    return LEGACY


def seeded_python() -> Any:
    random.seed(1)
    return random


#: How each is made, drawn from, and seeded by a pass.
KINDS: dict[str, Kind] = {
    "torch": (
        lambda: torch.Generator().manual_seed(1),
        lambda g: torch.rand(3, generator=g).tolist(),
        lambda g: g.manual_seed(5),
    ),
    "torch, global": (
        lambda: torch.default_generator.manual_seed(1),
        lambda _: torch.rand(3).tolist(),
        lambda g: g.manual_seed(5),
    ),
    "numpy": (lambda: np.random.default_rng(1), lambda g: g.random(3).tolist(), seeded_numpy),
    "numpy, global": (seeded_legacy, lambda g: g.random_sample(3).tolist(), lambda g: g.seed(5)),
    "python": (
        lambda: random.Random(1),
        lambda g: [g.random() for _ in range(3)],
        lambda g: g.seed(5),
    ),
    "python, global": (seeded_python, lambda g: [g.random() for _ in range(3)], lambda g: g.seed(5)),
}
every_kind = pytest.mark.parametrize(("make", "draw", "seed"), KINDS.values(), ids=KINDS)


@every_kind
def test_what_was_drawn_or_seeded_meanwhile_leaves_no_trace(
    make: Callable[[], Any], draw: Callable[[Any], list[float]], seed: Callable[[Any], object]
) -> None:
    after = []
    for meanwhile in (lambda _: None, draw, seed):
        generator = make()
        generators = Generators([generator])
        meanwhile(generator)
        generators.go_on()
        after.append(draw(generator))
    assert after[0] == after[1] == after[2]


@every_kind
def test_the_numbers_of_a_pass_are_not_drawn_again(
    make: Callable[[], Any], draw: Callable[[Any], list[float]], seed: Callable[[Any], object]
) -> None:
    generator = make()
    seen = []
    for _ in range(4):
        generators = Generators([generator])
        seen += draw(generator)
        generators.go_on()
    seen += draw(generator)
    assert len(set(seen)) == len(seen)


def test_a_generator_of_the_system_has_no_state() -> None:
    generator = random.SystemRandom()
    generators = Generators([generator])
    generators.go_on()
    assert generator.random() != generator.random()
