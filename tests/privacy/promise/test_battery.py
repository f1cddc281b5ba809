"""One user replaced moves the clipped sum by at most 2 S, or the engine refuses: every case, in every mode."""

from __future__ import annotations

import functools

import pytest
import torch

from . import coupled, inputs, loops, losses, memory, outputs, separate, steps
from .harness import MODES, PROMISE, Outcome, has_shared, outcome, run_without_privacy

FILES = (separate, coupled, memory, losses, outputs, inputs, loops, steps)
CASES = {case.name: case for file in FILES for case in file.CASES}

found = functools.cache(lambda name, mode: outcome(CASES[name], mode))


def relevant(mode: str) -> list[str]:
    return [name for name, case in CASES.items() if case.expectation(mode) != "outside"]


PAIRS = [(name, mode) for mode in MODES for name in relevant(mode)]


def test_no_two_cases_have_one_name() -> None:
    assert len(CASES) == sum(len(file.CASES) for file in FILES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_the_case_is_ordinary_code(name: str) -> None:
    run_without_privacy(CASES[name])


@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_one_user_moves_the_sum_by_two_at_most(name: str, mode: str) -> None:
    result: Outcome = found(name, mode)
    assert result.moved <= PROMISE, f"{result.moved:.3g} S; refused: {result.refusal}"
    for run in (result.first, result.other):
        assert run.billed == len(run.sums), "steps billed and released differ"


@pytest.mark.parametrize(
    ("name", "mode"), [(n, m) for n, m in PAIRS if CASES[n].expectation(m) in ("runs", "shares")]
)
def test_what_is_sound_is_not_refused(name: str, mode: str) -> None:
    case, result = CASES[name], found(name, mode)
    assert result.refusal is None, repr(result.refusal)
    for run in (result.first, result.other):
        assert len(run.sums) >= 2
        assert all(bool(total.any()) for total in run.sums)
    if case.expectation(mode) == "shares":
        assert has_shared(result.first), "no physical batch held several users"


@pytest.mark.parametrize(("name", "mode"), [(n, m) for n, m in PAIRS if CASES[n].expectation(m) == "refused"])
def test_what_is_unsound_is_refused_in_words(name: str, mode: str) -> None:
    result = found(name, mode)
    assert result.refusal is not None
    assert len(str(result.refusal)) > 40


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (n, m)
        for n, m in PAIRS
        if CASES[n].exact and m != "stream" and CASES[n].expectation(m) in ("runs", "shares")
    ],
)
def test_every_mode_releases_the_same(name: str, mode: str) -> None:
    """What is computed for a user who shares a batch is what is computed for the user alone."""
    result, alone = found(name, mode).first, found(name, "stream").first
    for one, two in zip(result.sums, alone.sums, strict=False):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone == "outside"])
def test_the_stated_assumption_is_needed(name: str) -> None:
    """A loop or criterion that carries values from one batch to the next breaks the promise, and this test sees it."""
    result = found(name, "stream")
    assert result.refusal is not None or result.moved > PROMISE
