"""Checks of the noise: none for correct noise, one for every way to break it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dpmi.privacy.audit.noise_record import NoiseRecord

SIZES = [300, 0, 700]
STD = 2.0

Generated = Callable[[torch.Generator, int, list[Tensor]], Tensor]


def record(generate: Generated, steps: int = 12, seed: int = 0) -> NoiseRecord:
    found = NoiseRecord(SIZES, np.random.default_rng(seed), torch.device("cpu"))
    generator, earlier = torch.Generator().manual_seed(seed), list[Tensor]()
    for step in range(steps):
        noise = generate(generator, step, earlier)
        earlier.append(noise)
        found.add(noise)
    return found


def correct(generator: torch.Generator, step: int = 0, earlier: list[Tensor] | None = None) -> Tensor:
    return torch.randn(1000, generator=generator) * STD


def p_values(found: NoiseRecord) -> dict[str, float]:
    return {check.name: check.p_value for check in found.checks(STD)}


def least(values: dict[str, float], word: str) -> float:
    (p,) = (p for name, p in values.items() if word in name)
    return p


@pytest.mark.parametrize("steps", [1, 2, 12, 70])
def test_correct_noise_passes(steps: int) -> None:
    values = p_values(record(correct, steps))
    assert min(values.values()) > 1e-3
    assert len(values) == (6 if steps == 1 else 8)


def test_few_runs_of_correct_noise_look_unusual() -> None:
    found = np.array([list(p_values(record(correct, 3, seed)).values()) for seed in range(150)])
    assert ((found < 0.05).mean(0) <= 0.12).all()


def test_the_smallest_numbers_are_of_the_measured_values() -> None:
    found = record(correct, 40)
    values = {check.name: check.found for check in found.checks(STD)}
    assert values["standard deviation of the noise, relative to the claim"] == pytest.approx(1.0, abs=0.02)
    assert values["kurtosis of the noise (3 for a Gaussian)"] == pytest.approx(3.0, abs=0.1)


BROKEN: dict[str, tuple[Generated, str]] = {
    "too small": (lambda g, *_: correct(g) * 0.9, "deviation of the noise, relative"),
    "too large": (lambda g, *_: correct(g) * 1.1, "deviation of the noise, relative"),
    "small in one parameter": (
        lambda g, *_: correct(g) * torch.where(torch.arange(1000) < 300, 0.8, 1.0),
        "most unusual parameter",
    ),
    "missing in one coordinate": (
        lambda g, *_: correct(g) * (torch.arange(1000) != 17),
        "most unusual coordinate",
    ),
    "shifted": (lambda g, *_: correct(g) + 0.2, "mean of the noise"),
    "Laplacian": (
        lambda g, *_: (
            STD
            / 2**0.5
            * torch.empty(1000).exponential_(generator=g)
            * torch.empty(1000).bernoulli_(0.5, generator=g).mul_(2).sub_(1)
        ),
        "kurtosis",
    ),
    "repeated within a step": (lambda g, *_: correct(g)[:500].repeat(2), "distance between coordinates"),
    "equal in neighbours": (
        lambda g, *_: correct(g)[:500].repeat_interleave(2),
        "distance between coordinates",
    ),
    "carried to the next step": (
        lambda g, _, earlier: (correct(g) + 0.3 * earlier[-1]) / 1.09**0.5 if earlier else correct(g),
        "consecutive steps",
    ),
    "repeated after seven steps": (
        lambda g, step, earlier: earlier[step - 7] if step >= 7 else correct(g),
        "noise of two steps",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_noise_fails_its_check(name: str) -> None:
    generate, word = BROKEN[name]
    assert least(p_values(record(generate)), word) < 1e-9


def test_no_noise_at_all_fails() -> None:
    values = p_values(record(lambda *_: torch.zeros(1000)))
    assert least(values, "deviation of the noise, relative") == 0.0


def test_goes_on_from_its_state() -> None:
    whole, first = record(correct, 9), record(correct, 4)
    rest = NoiseRecord(SIZES, np.random.default_rng(8), torch.device("cpu"))
    rest.load_state_dict(first.state_dict())
    generator = torch.Generator().manual_seed(0)
    for step in range(9):
        noise = correct(generator)
        if step >= 4:
            rest.add(noise)
    assert rest.checks(STD) == whole.checks(STD)


def test_only_some_steps_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpmi.privacy.audit.noise_record.KEPT", 5)
    found = record(correct, 40)
    assert len(found._kept) == 5
    assert min(p_values(found).values()) > 1e-3
