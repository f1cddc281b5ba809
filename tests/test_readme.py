"""README and docs are run, not believed: their code, their commands, their tables; tests/docs holds their links.

Modules: dpmi/cli/__init__.py, dpmi/privacy/engine.py, dpmi/study/study.py.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import dpmi
from dpmi.cli import app
from dpmi.study import SpecError, parse

from .docs.loop import loop
from .docs.repository import ROOT, files

README = ROOT.joinpath("README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files(".md")}


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def inline(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(text: str) -> list[str]:
    """Every command line of dpmi and of make."""
    lines = [
        line for language in ("sh", "console") for b in blocks(language, text) for line in b.splitlines()
    ]
    shown = [*inline(text), *(line.removeprefix("$ ") for line in lines)]
    return [line.split(" #")[0] for line in shown if line.startswith(("dpmi ", "make "))]


@pytest.fixture(name="loop")
def _loop() -> dict[str, Any]:
    return loop(records=40, features=3, classes=4)


def test_the_first_example_is_useful_at_epsilon_1(capsys: pytest.CaptureFixture[str]) -> None:
    example, printed = blocks("python")[0], blocks("text")[0]
    assert len(example.splitlines()) < 25
    exec(example, {})
    guarantee, accuracy = capsys.readouterr().out.splitlines()
    assert guarantee == printed.splitlines()[0]
    shown, found = (float(line.removeprefix("accuracy ")) for line in (printed.splitlines()[1], accuracy))
    assert 0.8 <= shown <= 0.9
    assert found == pytest.approx(shown, abs=0.1)


def test_the_python_example_trains_and_prints_what_is_shown(
    loop: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (_, example), (_, printed) = blocks("python"), blocks("text")
    before = loop["model"].weight.detach().clone()
    exec(example, loop)
    assert capsys.readouterr().out == printed
    found = loop["engine"].guarantee(delta=1e-3)
    assert (found.unit, found.adjacency, found.accountant) == ("class", "replace", "tight")
    assert found.is_guarantee
    assert found.steps == 5, "one pass is 1 / sampling_rate steps"
    assert 0 < found.epsilon < float("inf")
    (fields,) = re.findall(r"a record with the fields (.*)\.$", README, flags=re.MULTILINE)
    assert all(hasattr(found, field) for field in inline(fields))
    assert not torch.equal(loop["model"]._module.weight, before)
    assert found.epsilon == pytest.approx(loop["engine"].account.guarantee(1e-3).epsilon)


def test_the_epsilon_table_is_what_the_command_prints() -> None:
    (console,) = blocks("console")
    command, *shown = console.splitlines()
    arguments = shlex.split(command.removeprefix("$ dpmi "))
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == 0, result.output
    printed = [line.rstrip() for line in result.output.splitlines()]
    assert printed[: len(shown)] == [line.rstrip() for line in shown]
    assert len(shown) == 1 + 3 * 2, "three accountants, two adjacencies, a heading"


@pytest.mark.parametrize("page", PAGES)
def test_every_dpmi_command_and_option_exists(page: str) -> None:
    group: Any = typer.main.get_command(app)
    everywhere = {option for command in group.commands.values() for p in command.params for option in p.opts}
    for line in commands(PAGES[page]):
        program, name, *arguments = shlex.split(line)
        if program == "dpmi":
            assert name in group.commands, f"`{line}`: no such command"
            options = {option for p in group.commands[name].params for option in p.opts}
            assert {a for a in arguments if a.startswith("--")} <= options, f"`{line}`: no such option"
    assert {text.split()[0] for text in inline(PAGES[page]) if text.startswith("--")} <= everywhere


def test_every_command_is_in_the_readme() -> None:
    group: Any = typer.main.get_command(app)
    assert {line.split()[1] for line in commands(README) if line.startswith("dpmi ")} == set(group.commands)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {line.split()[1] for line in commands(PAGES[page]) if line.startswith("make ")}
    assert named <= targets
    if page == "README.md":
        assert named >= {"demo", "test", "test-slow", "lint", "bench"}


def test_every_name_of_python_exists() -> None:
    import accountants.planner
    import accountants.verdict
    import dpmi.attacks
    import dpmi.data
    import dpmi.defenses
    import dpmi.metrics
    import dpmi.models
    import dpmi.report.write
    import dpmi.study
    import dpmi.testing
    from dpmi.privacy import Partition, PrivacyEngine

    for name in ("lightning", "transformers"):
        pytest.importorskip(name, reason=f"the extra `{name}` is not installed")
        import_module(f"dpmi.privacy.integrations.{name}")
    known = {"Partition": Partition, "engine": PrivacyEngine, "dpmi": dpmi, "accountants": accountants}
    seen = 0
    # Names of the past, and a key in the metadata of a file.
    pages = (text for name, text in PAGES.items() if name not in ("CHANGELOG.md", "docs/tables.md"))
    for text in (text for page in pages for text in inline(page)):
        head, *names = re.sub(r"\(.*", "", text).split(".")
        if head not in known or " " in text.split("(")[0]:
            continue
        found: Any = known[head]
        for name in names:
            if isinstance(found, property):
                break  # an instance would be needed; the notebook calls it
            assert hasattr(found, name), f"`{text}`: no {name}"
            found = getattr(found, name)
        seen += 1
    assert seen >= 25


def test_the_study_example_is_a_study() -> None:
    example, own, *games = blocks("toml", PAGES["docs/studies.md"])
    spec = parse(example)
    assert len(spec.trials) == 3 * 3, "three seeds; no defence, and two strengths of one"
    linked, played = (parse(example.replace("[0, 1, 2]", "[0, 1, 2, 3]") + table) for table in games)
    assert linked.linkage is not None
    assert played.units is not None
    with pytest.raises(SpecError, match="mymodel cannot be imported"):  # its other keys are right
        parse(
            "\n".join(line for line in example.splitlines() if line[:4] not in ("mode", "data")) + "\n" + own
        )


def test_it_is_short_and_names_no_machine() -> None:
    assert len(README.splitlines()) <= 175
    assert not [name for name, text in PAGES.items() if re.search(r"/(work|home|root|Users)/", text)]


def test_the_changelog_and_the_citation_have_the_version() -> None:
    version = [dpmi.__version__]
    citation = ROOT.joinpath("CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == version
    assert re.findall(r"^## (\S+)", PAGES["CHANGELOG.md"], re.M)[0] == version[0]
