"""One user replaced moves the clipped sum by at most 2 S, or the engine refuses: every case, in every mode.

Modules: dpmi/privacy/criterion/wrapped.py, dpmi/privacy/dry_run.py, dpmi/privacy/grad_sample.py,
dpmi/privacy/isolation/provenance.py, dpmi/privacy/isolation/shared.py, dpmi/privacy/isolation/watch.py,
dpmi/privacy/loader.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from . import coupled, inputs, loops, losses, memory, outputs, separate, steps
from .harness import MODES, PROMISE, Case, Outcome, has_shared, outcome, run_without_privacy

FILES = (separate, coupled, memory, losses, outputs, inputs, loops, steps)
CASES = {case.name: case for file in FILES for case in file.CASES}


def broken(case: Case, mode: str, found: Outcome) -> Iterator[str]:
    """What was promised or expected, and is not so."""
    expected = case.expectation(mode)
    if found.moved > PROMISE:
        yield f"one user replaced moves the sum by {found.moved:.3g} S; refusal: {found.refusal!r}"
    if any(run.billed < len(run.sums) for run in found.runs):
        yield f"{[len(run.sums) for run in found.runs]} steps released, {[run.billed for run in found.runs]} billed"
    if expected in ("runs", "shares"):
        if found.refusal is not None:
            yield f"refused, though it is sound: {found.refusal!r}"
        elif min(len(run.sums) for run in found.runs) < 2:
            yield "nothing, or too little, was released"
        elif expected == "shares" and not has_shared(found.first):
            yield "no physical batch held several users"
    if expected == "refused" and (found.refusal is None or len(str(found.refusal)) < 40):
        yield f"not refused in words: {found.refusal!r}"


def differs(found: Outcome, alone: Outcome) -> Iterator[str]:
    """What is computed for a user who shares a batch is what is computed for the user alone."""
    for one, two in zip(found.first.sums, alone.first.sums, strict=False):
        if not torch.allclose(one, two, rtol=1e-4, atol=1e-5):
            yield f"differs from 'stream' by {float((one - two).norm() / two.norm()):.2g} of its norm"


@pytest.mark.parametrize("name", CASES)
def test_one_user_moves_the_sum_by_two_at_most(name: str) -> None:
    case = CASES[name]
    found = {mode: outcome(case, mode) for mode in MODES if case.expectation(mode) != "outside"}
    problems = [
        f"{mode}: {problem}" for mode, result in found.items() for problem in broken(case, mode, result)
    ]
    if case.exact:
        for mode, result in found.items():
            problems += [f"{mode}: {problem}" for problem in differs(result, found["stream"])]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("name", CASES)
def test_the_case_is_ordinary_code(name: str) -> None:
    """It runs on plain torch, so that whatever the private run raises comes from the engine."""
    run_without_privacy(CASES[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.alone == "outside"])
def test_the_stated_assumption_is_needed(name: str) -> None:
    """A loop or criterion that carries values from one batch to the next breaks the promise, and this test sees it."""
    result = outcome(CASES[name], "stream")
    assert result.refusal is not None or result.moved > PROMISE


def test_no_two_cases_have_one_name() -> None:
    assert len(CASES) == sum(len(file.CASES) for file in FILES) >= 100
