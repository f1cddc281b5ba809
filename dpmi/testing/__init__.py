"""The promises that every defence and every attack keeps, as tests that a package with a plug-in of its own inherits.

Needs pytest, which dpmi itself does not::

    from dpmi.testing import DefenseCase, DefenseConformance

    class TestMyDefense(DefenseConformance):
        cases = {"my-defense": DefenseCase(settings={"strength": 0.3}, refused={"strength": -1.0})}
"""

import pytest

# Before they are imported: a failing promise then shows the values on both sides.
pytest.register_assert_rewrite("dpmi.testing.plugin", "dpmi.testing.attacks", "dpmi.testing.defenses")

from .attacks import AttackCase, AttackConformance  # noqa: E402
from .defenses import DefenseCase, DefenseConformance  # noqa: E402

__all__ = ["AttackCase", "AttackConformance", "DefenseCase", "DefenseConformance"]
