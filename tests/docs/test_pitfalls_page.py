"""Every pitfall of the page has a severity, somebody who is responsible, and a test that exists."""

from __future__ import annotations

import ast

from .repository import ROOT

ROWS = [
    [cell.strip() for cell in line.strip("|\n").split("|")]
    for line in ROOT.joinpath("docs", "pitfalls.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| ---", "| pitfall"))
]


def test_there_are_as_many_as_were_found() -> None:
    assert len({pitfall for pitfall, *_ in ROWS}) == len(ROWS) >= 25


def test_each_has_a_severity_and_somebody_who_is_responsible() -> None:
    assert {severity for _, severity, *_ in ROWS} == {"none", "less", "wrong"}
    assert {who for _, _, who, *_ in ROWS} == {"dpmi", "you", "both"}


def test_each_is_proved_by_a_test() -> None:
    missing = []
    for *_, proof in ROWS:
        path, name = proof.strip("`").split("::")
        tree = ast.parse(ROOT.joinpath(path).read_text(encoding="utf-8"))
        if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
            missing.append(proof)
    assert missing == []
