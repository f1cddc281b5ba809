"""``dpmi explain``: what an epsilon means, with a note for every row."""

from __future__ import annotations

import json

import pytest

from .conftest import Dpmi, epsilon, is_one_line


class TestExplain:
    @staticmethod
    def explain(*more: str, **changed: str) -> list[str]:
        return ["explain", *epsilon(**changed)[1:], *more]

    def test_table_and_a_note_for_every_row(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--buckets", "40"))
        assert (outcome.code, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert len(lines) == 1 + 12 + 12 + 1 + 2, "nothing is wrapped in a pipe"
        table = [line.rstrip().split(maxsplit=7) for line in lines[1:13]]
        assert [row[0] for row in table] == [str(number) for number in range(1, 13)]
        assert table[0][1:] == ["tight", "replace", "subclass", "15.924", "0.001", "200", "yes, the smallest"]
        assert [row[-1] for row in table] == [
            *("yes, the smallest", "yes, the smallest", "yes", "yes", "no", "no"),
            *("-", "yes", "-", "yes", "-", "no"),
        ]
        for number, (row, note) in enumerate(zip(table, lines[13:25], strict=True), start=1):
            assert note.startswith(f"{number:>2} {row[1]}, {row[2]}: ")
        assert lines[25] == (
            "   Gaussian DP: mu = 3.473 (replace), 2.080 (add_remove), but for a failure of probability 1e-10 "
            "(accountant: tight)"
        )
        assert (
            lines[26]
            == "   To state: epsilon = 15.924 (tight) at delta = 0.001, one subclass replaced, 200 steps"
        )
        assert lines[27].startswith(
            "   To state: epsilon = 7.448 (tight) at delta = 0.001, one subclass added"
        )

    def test_json(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--json"))
        assert (outcome.code, outcome.err) == (0, "")
        found = {(row["accountant"], row["adjacency"]): row for row in json.loads(outcome.out)}
        assert len(found) == 12
        assert found["tight", "replace"]["epsilon"] == pytest.approx(15.924, abs=1e-3)
        assert found["opacus-gdp", "add_remove"]["is_bound"] is False
        assert found["opacus-gdp", "replace"]["epsilon"] is None
        for row in found.values():
            assert (row["unit"], row["delta"], row["steps"]) == ("subclass", 1e-3, 200)
            assert len(row["reason"]) > 20

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"sampling_rate": "0"}, "sampling_rate must be in (0, 1], got 0.0"),
            ({"delta": "1"}, "delta must be in (0, 1), got 1.0"),
            ({"steps": "-1"}, "steps must be at least 0, got -1"),
            ({"buckets": "0"}, "buckets must be at least 1, got 0"),
            ({"buckets": "few"}, "Invalid value for '--buckets': 'few' is not an integer"),
        ],
    )
    def test_wrong_argument(self, dpmi: Dpmi, changed: dict[str, str], message: str) -> None:
        outcome = dpmi(*self.explain(**changed))
        assert (outcome.code, outcome.out) == (2, "")
        assert is_one_line(outcome)
        assert outcome.err.startswith(f"dpmi: {message}")

    def test_a_delta_too_large_for_the_buckets_is_one_line(self, dpmi: Dpmi) -> None:
        outcome = dpmi(*self.explain("--buckets", "1000", "--json"))
        assert outcome.code == 0
        assert is_one_line(outcome)
        assert "delta = 0.001 is not below 1/K with K = 1000 buckets" in outcome.err
