"""The conformance suites of dpmi, run on the two plug-ins."""

from dpmi.testing import AttackCase, AttackConformance, DefenseCase, DefenseConformance


class TestConfidencePenalty(DefenseConformance):
    cases = {"confidence-penalty": DefenseCase(refused={"penalty_weight": -1.0})}


class TestRandomWalk(AttackConformance):
    cases = {"random-walk": AttackCase({"iterations": 300}, refused={"iterations": 0, "step_size": 0.0})}
