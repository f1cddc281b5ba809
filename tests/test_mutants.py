"""The planted faults fit the files that they are planted in, and tests find every one.

Modules: mutants/__main__.py, mutants/fault.py, mutants/runner.py.
"""

from __future__ import annotations

import ast

import pytest

from mutants import FAULTS, Fault, check_tests, run
from mutants.__main__ import main
from mutants.runner import ROOT

#: A module and tests that take no time.
LIGHT = {
    "path": "accountants/checks.py",
    "tests": ("tests/accountants/test_mechanism.py::test_noise_multiplier_outside_its_range_is_refused",),
}


def names(fault: Fault) -> str:
    return fault.name


@pytest.mark.parametrize("fault", FAULTS, ids=names)
def test_every_fault_applies_to_one_place_and_leaves_a_program(fault: Fault) -> None:
    text = (ROOT / fault.path).read_text(encoding="utf-8")
    planted = fault.planted(text)
    assert planted != text
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("test", sorted({test for fault in FAULTS for test in fault.tests}))
def test_the_tests_of_the_faults_exist(test: str) -> None:
    path, *parts = test.partition("[")[0].split("::")
    nodes: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in parts:
        (found,) = (n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part)
        nodes = found.body


def test_there_are_many_and_each_has_a_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 60
    assert {fault.path.split("/")[0] for fault in FAULTS} == {"accountants", "dpmi"}


@pytest.mark.parametrize(("text", "times"), [("a = 2", 0), ("a = 1; a = 1", 2)])
def test_a_fault_that_does_not_fit_its_file_is_an_error(text: str, times: int) -> None:
    fault = Fault(name="one is three", path="some.py", old="a = 1", new="a = 3", tests=("tests",))
    with pytest.raises(ValueError, match=rf"'one is three'.* occurs {times} times in some\.py, not once"):
        fault.planted(text)
    assert fault.planted("a = 1\n") == "a = 3\n"


def test_such_a_fault_ends_the_run_before_any_is_planted() -> None:
    fault = Fault(name="fits nowhere", old="no such text", new="", **LIGHT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'fits nowhere'.* occurs 0 times in accountants/checks\.py"):
        run([fault])


@pytest.mark.parametrize("changed", [{"new": "old"}, {"tests": ()}])
def test_a_fault_that_changes_or_asks_nothing_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"nothing changes|tests is empty"):
        Fault(**{"name": "idle", "path": "some.py", "old": "old", "new": "new", "tests": ("t",), **changed})  # type: ignore[arg-type]


def test_a_word_that_no_fault_has_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-word"]) == 1
    assert capsys.readouterr().err == "no fault has no-such-word in its path or name\n"


@pytest.mark.slow
def test_a_fault_is_caught_survives_or_is_an_error() -> None:
    """Each in a copy: the files themselves stay as they are."""
    before = (ROOT / LIGHT["path"]).read_text(encoding="utf-8")  # type: ignore[operator]
    caught, survivor, broken = (
        Fault(name=name, old=old, new=new, **LIGHT)  # type: ignore[arg-type]
        for name, old, new in (
            ("noise may be negative", "if number < 0:", "if False:"),
            ("delta may be 1", "if not 0 < number < 1:", "if not 0 < number <= 1:"),
            ("no such name", '"""Range checks', 'no_such_name\n"""Range checks'),
        )
    )
    told: list[str] = []
    outcomes = run([caught, survivor], tell=lambda outcome: told.append(outcome.fault.name))
    assert told == [caught.name, survivor.name]
    assert [outcome.caught_by for outcome in outcomes] == [f"{LIGHT['tests'][0]}[-0.1]", None]
    with pytest.raises(RuntimeError, match=r"'no such name'.*could not run .*exit code"):
        run([broken])
    assert (ROOT / LIGHT["path"]).read_text(encoding="utf-8") == before  # type: ignore[operator]


@pytest.mark.slow
def test_every_fault_is_caught() -> None:
    check_tests(FAULTS)
    assert [outcome.fault.name for outcome in run(FAULTS) if outcome.caught_by is None] == []
