"""``dpmi epsilon``: every accountant's epsilon, as a table and as JSON.

Modules: dpmi/cli/accounting.py, dpmi/cli/arguments.py.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from .conftest import Dpmi, epsilon, is_one_line


class TestEpsilon:
    def test_json(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(), "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found = {(g["accountant"], g["adjacency"]): g for g in json.loads(outcome.out)}
        assert set(found) == {
            (accountant, adjacency)
            for accountant in ("tight", "lemma3", "theorem1")
            for adjacency in ("replace", "add_remove")
        }
        assert found["tight", "replace"]["epsilon"] == pytest.approx(15.924, abs=1e-3)
        assert found["tight", "add_remove"]["epsilon"] == pytest.approx(7.448, abs=1e-3)
        # 4 q sqrt(T ln(1/delta)) / sigma, and half of it.
        closed = 4 * 0.2 * math.sqrt(200 * math.log(1e3)) / 1.6
        assert found["theorem1", "replace"]["epsilon"] == pytest.approx(closed)
        assert found["theorem1", "add_remove"]["epsilon"] == pytest.approx(closed / 2)
        for (accountant, _), g in found.items():
            assert (g["unit"], g["delta"]) == ("subclass", 1e-3)
            assert g["is_guarantee"] is (accountant != "theorem1")
            assert ("conditions" in g) is (accountant == "theorem1")
        assert [c["holds"] for c in found["theorem1", "replace"]["conditions"]] == [False, True, False]

    def test_table(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon())
        assert (outcome.code, outcome.err) == (0, "")
        rows = [line.split() for line in outcome.out.splitlines()]
        assert ["tight", "replace", "subclass", "15.924", "0.001", "yes"] in rows
        assert ["tight", "add_remove", "subclass", "7.448", "0.001", "yes"] in rows
        # 18.58461 and 9.29231: an epsilon is rounded up.
        assert ["theorem1", "replace", "subclass", "18.585", "0.001", "no"] in rows
        assert ["theorem1", "add_remove", "subclass", "9.293", "0.001", "no"] in rows
        lines = outcome.out.splitlines()
        assert sum("FAILS" in line or "holds" in line for line in lines if "needs" in line) == 6
        assert "  theorem1, replace: needs q < 1/(16 sigma): FAILS (q = 0.2, 1/(16 sigma) = 0.03906)" in lines
        # Nothing is wrapped: every line begins like one of ours.
        starts = (" accountant", " tight", " lemma3", " theorem1", "  tight: ", "  lemma3: ", "  theorem1")
        assert all(line.startswith(starts) for line in lines)

    def test_units_of_several_records(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(records_per_unit="3"), "--json")
        assert (outcome.code, outcome.err) == (0, "")
        found = {g["adjacency"]: g["epsilon"] for g in json.loads(outcome.out)}
        assert found["add_remove"] == pytest.approx(34.81, abs=0.01)
        assert found["replace"] > 2 * found["add_remove"]
        assert "owns at most 3 of the separately sampled" in dpmi(*epsilon(records_per_unit="3")).out

    def test_rows_that_can_answer_do(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(delta="1e-12"), "--json")
        assert outcome.code == 0
        assert is_one_line(outcome)
        assert outcome.err.startswith("dpmi: tight has no answer: delta must be at least 1e-10")
        assert {g["accountant"] for g in json.loads(outcome.out)} == {"lemma3", "theorem1"}

    def test_one_accountant_and_the_number_of_buckets(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(accountant="tight", buckets="500"), "--json")
        assert {g["accountant"] for g in json.loads(outcome.out)} == {"tight"}
        assert outcome.err == ""
        warned = dpmi(*epsilon(accountant="tight", buckets="900"))
        assert "delta = 0.001 is not below 1/K with K = 900 buckets" not in warned.err
        warned = dpmi(*epsilon(accountant="tight", buckets="1000"))
        assert "delta = 0.001 is not below 1/K with K = 1000 buckets" in warned.err

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"accountant": "moments"}, "unknown accountant 'moments'"),
            ({"records_per_unit": "0"}, "buckets_per_unit must be at least 1, got 0"),
            ({"records_per_unit": "9", "buckets": "8"}, "buckets_per_unit must be at most 8"),
            ({"records_per_unit": "2", "accountant": "lemma3"}, "'lemma3' covers units that own one bucket"),
            ({"records_per_unit": "2", "plot": "x.png"}, "--plot shows units of one bucket"),
            ({"delta": "1e-12", "accountant": "tight"}, "delta must be at least 1e-10"),
            ({"records_per_unit": "1.5"}, "'1.5' is not an integer"),
        ],
    )
    def test_what_cannot_be_answered(self, dpmi: Dpmi, changed: dict[str, str], message: str) -> None:
        outcome = dpmi(*epsilon(**changed))
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome)
        assert message in outcome.err

    def test_no_noise_is_allowed_with_a_warning(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(noise_multiplier="0"), "--json")
        assert outcome.code == 0
        assert is_one_line(outcome)
        assert outcome.err.startswith("dpmi: warning: noise_multiplier is 0: epsilon is infinite")
        values = [float(g["epsilon"]) for g in json.loads(outcome.out)]
        assert all(math.isinf(value) for value in values)

    def test_no_steps_cost_nothing(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*epsilon(steps="0"), "--json")
        assert [g["epsilon"] for g in json.loads(outcome.out)] == [0.0] * 6

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"sampling_rate": "-0.2"}, "sampling_rate must be in (0, 1], got -0.2"),
            ({"sampling_rate": "0"}, "sampling_rate must be in (0, 1], got 0.0"),
            ({"sampling_rate": "1.5"}, "sampling_rate must be in (0, 1], got 1.5"),
            ({"sampling_rate": "nan"}, "sampling_rate must be finite, got nan"),
            ({"sampling_rate": "many"}, "Invalid value for '--sampling-rate': 'many' is not a number"),
            ({"noise_multiplier": "-1"}, "noise_multiplier must be at least 0, got -1.0"),
            ({"noise_multiplier": "nan"}, "noise_multiplier must be finite, got nan"),
            ({"noise_multiplier": "inf"}, "noise_multiplier must be finite, got inf"),
            ({"delta": "0"}, "delta must be in (0, 1), got 0.0"),
            ({"delta": "1"}, "delta must be in (0, 1), got 1.0"),
            ({"delta": "-1e-3"}, "delta must be in (0, 1), got -0.001"),
            ({"delta": "nan"}, "delta must be finite, got nan"),
            ({"steps": "-1"}, "steps must be at least 0, got -1"),
            ({"steps": "1.5"}, "Invalid value for '--steps': '1.5' is not an integer"),
            ({"unit": " "}, "unit must say what one bucket is"),
            ({"unti": "class"}, "No such option: --unti"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, changed: dict[str, str], message: str) -> None:
        outcome = dpmi(*epsilon(**changed))
        assert outcome.code == 2
        assert outcome.out == ""
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: {message}")

    def test_missing_argument(self, dpmi: Dpmi) -> None:
        outcome = dpmi("epsilon", "--sampling-rate", "0.2")
        assert outcome.code == 2
        assert is_one_line(outcome)
        assert "Missing option '--delta'" in outcome.err

    def test_never_imports_torch(self) -> None:
        program = (
            "import atexit, sys; from dpmi import cli; "
            "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *epsilon()], capture_output=True, text=True, check=True
        )
        assert "15.924" in done.stdout
        assert done.stderr.split() == ["False"]

    def test_a_name_that_the_output_cannot_encode_is_spelled_out(self) -> None:
        """In a pipe on Windows, whose encoding has 256 characters."""
        done = subprocess.run(
            [sys.executable, "-m", "dpmi.cli", *epsilon(unit="\N{INFINITY}-group")],
            env={**os.environ, "PYTHONIOENCODING": "cp1252"},
            capture_output=True,
            check=True,
        )
        assert rb"\u221e-group  15.924" in done.stdout
