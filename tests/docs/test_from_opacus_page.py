"""docs/from_opacus.md: its script runs with Opacus, its difference turns it into one of dpmi, its tables are complete.

Modules: dpmi/privacy/from_opacus.py.
"""

from __future__ import annotations

import re
import warnings

import pytest

from dpmi.privacy.from_opacus import ARGUMENTS, VALUES, WithoutOpacusMethods

from .repository import ROOT

PAGE = ROOT.joinpath("docs", "from_opacus.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def patched(text: str, difference: str) -> str:
    """Apply a unified difference whose parts are separated by lines of @@."""
    for part in difference.split("@@\n"):
        lines = part.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_script_is_one_of_opacus(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(block("python"), {})
    word, number = capsys.readouterr().out.split()
    assert word == "epsilon"
    assert 3.5 < float(number) <= 4.0


def test_five_lines_make_it_private_for_users(capsys: pytest.CaptureFixture[str]) -> None:
    changed = [line for line in block("diff").splitlines() if line[0] in "+-"]
    assert len(changed) <= 5
    names: dict[str, object] = {}
    exec(patched(block("python"), block("diff")), names)
    assert capsys.readouterr().out == block("text")
    model, inputs, labels = names["model"].eval(), names["inputs"], names["labels"]  # type: ignore[attr-defined]
    assert (model(inputs).argmax(1) == labels).float().mean() > 0.6, "it learns: a fifth is chance"


def test_the_tables_have_every_name() -> None:
    cells = " ".join(re.findall(r"^\| (.*?) \| ", PAGE, flags=re.MULTILINE))
    names = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", cells))))
    arguments = {name for method in ("__init__", "make_private") for name in ARGUMENTS[method]}
    absent = {name for name in vars(WithoutOpacusMethods) if not name.startswith("_")}
    assert arguments | {name for name, _ in VALUES} | absent <= names
    assert {str(value) for _, value in VALUES if isinstance(value, str)} <= set(re.findall(r'"(\w+)"', PAGE))
