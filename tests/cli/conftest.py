"""The command line as a user meets it: what it prints, where, and with which exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dpmi import cli

EPSILON = {
    "--sampling-rate": "0.2",
    "--noise-multiplier": "1.6",
    "--steps": "200",
    "--delta": "1e-3",
    "--unit": "subclass",
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Dpmi = Callable[..., Outcome]


@pytest.fixture
def dpmi(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Dpmi:
    """``main()`` in this process, where torch is already imported."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["dpmi", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capfd.readouterr())

    return run


def epsilon(**changed: str) -> list[str]:
    options = {**EPSILON, **{f"--{name.replace('_', '-')}": value for name, value in changed.items()}}
    return ["epsilon", *(part for option in options.items() for part in option)]


def is_one_line(outcome: Outcome) -> bool:
    lines = outcome.err.splitlines()
    return len(lines) == 1 and lines[0].startswith("dpmi: ") and "Traceback" not in outcome.err


def check_mistake(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one line on stderr with these words, nothing on stdout."""
    assert outcome.code == 2
    assert outcome.out == ""
    assert is_one_line(outcome), outcome.err
    for word in words:
        assert word in outcome.err
