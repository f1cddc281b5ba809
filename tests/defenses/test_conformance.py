"""Every registered defence keeps every promise.

Modules: dpmi/defenses/base.py, dpmi/defenses/none.py, dpmi/defenses/objective.py, dpmi/defenses/registry.py,
dpmi/defenses/session.py, dpmi/testing/plugin.py.
"""

from __future__ import annotations

from dpmi.defenses import names
from dpmi.testing import DefenseConformance

from .cases import CASES


def test_every_registered_defence_has_a_case() -> None:
    missing = set(names()) - {case.split("/", maxsplit=1)[0] for case in CASES}
    assert not missing, "give it settings in cases.py"


class TestDefenses(DefenseConformance):
    cases = CASES
