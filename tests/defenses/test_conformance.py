"""Every registered defence keeps every promise."""

from __future__ import annotations

from dpmi.defenses import names
from dpmi.testing import DefenseConformance

from .cases import CASES


def test_every_registered_defence_has_a_case() -> None:
    missing = set(names()) - {case.split("/", maxsplit=1)[0] for case in CASES}
    assert not missing, "give it settings in cases.py"


class TestDefenses(DefenseConformance):
    cases = CASES
