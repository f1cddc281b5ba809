"""Conformance suites: the contract of every defence and every attack, as tests that a plug-in package inherits.

They need pytest, which is not a dependency of dpmi::

    from dpmi.testing import DefenseCase, DefenseConformance

    class TestMyDefense(DefenseConformance):
        cases = {"my-defense": DefenseCase(settings={"strength": 0.3}, refused={"strength": -1.0})}
"""

import pytest

# Must run before the imports: pytest then shows the values on both sides of a failing assertion.
pytest.register_assert_rewrite("dpmi.testing.plugin", "dpmi.testing.attacks", "dpmi.testing.defenses")

from .attacks import AttackCase, AttackConformance  # noqa: E402
from .defenses import DefenseCase, DefenseConformance  # noqa: E402

__all__ = ["AttackCase", "AttackConformance", "DefenseCase", "DefenseConformance"]
