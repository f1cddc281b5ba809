"""The README is run, not believed: its code, its commands, its table, its links.

Modules: dpmi/cli/__init__.py, dpmi/privacy/engine.py, dpmi/study/study.py.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from dpmi.cli import app
from dpmi.study import parse

ROOT = Path(__file__).parents[1]
README = ROOT.joinpath("README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def inline() -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`([^`\n]+)`", prose)


def shell_lines() -> list[str]:
    lines = [
        line for language in ("sh", "console") for block in blocks(language) for line in block.splitlines()
    ]
    return [line.removeprefix("$ ") for line in lines if line.startswith(("$ ", "make ", ".venv", "python3"))]


@pytest.fixture
def loop() -> dict[str, Any]:
    """What a team has before it reads the README."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(40, 3, generator=generator), torch.arange(40) % 4
    model = torch.nn.Linear(3, 4)
    return {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": DataLoader(TensorDataset(images, labels), batch_size=8),
        "labels": labels,
        "criterion": torch.nn.CrossEntropyLoss(),
    }


def test_the_python_example_trains_and_gives_a_guarantee(loop: dict[str, Any]) -> None:
    (example,) = blocks("python")
    before = loop["model"].weight.detach().clone()
    exec(example, loop)
    found = loop["engine"].guarantee(delta=1e-3)
    assert (found.unit, found.adjacency, found.accountant) == ("class", "replace", "tight")
    assert found.is_guarantee
    assert found.steps == 5, "one pass is 1 / sampling_rate steps"
    assert 0 < found.epsilon < float("inf")
    named = re.search(r"# a record: (.*)", example)
    assert named is not None
    assert all(hasattr(found, field) for field in named.group(1).split(", "))
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


def test_every_dpmi_command_and_option_exists() -> None:
    group: Any = typer.main.get_command(app)
    shown = [text for text in (*inline(), *shell_lines()) if text.startswith("dpmi ")]
    named = set()
    for line in shown:
        _, name, *arguments = shlex.split(line)
        assert name in group.commands, f"`{line}`: no such command"
        named.add(name)
        options = {option for p in group.commands[name].params for option in p.opts}
        assert {a for a in arguments if a.startswith("--")} <= options, f"`{line}`: no such option"
    assert named == set(group.commands), "every command is in the README"


def test_options_named_alone_exist() -> None:
    group: Any = typer.main.get_command(app)
    options = {option for command in group.commands.values() for p in command.params for option in p.opts}
    alone = {text.split()[0] for text in inline() if text.startswith("--")}
    assert alone
    assert alone <= options


def test_every_make_target_exists() -> None:
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    named = {text.split()[1] for text in (*inline(), *shell_lines()) if text.startswith("make ")}
    assert named >= {"demo", "test", "test-slow", "lint", "bench"}
    assert named <= targets


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    assert len(links) > 10
    missing = [link for link in links if "://" not in link and not ROOT.joinpath(link.split("#")[0]).exists()]
    assert missing == []


def test_every_name_of_python_exists() -> None:
    import dpmi.attacks
    import dpmi.data
    import dpmi.defenses
    import dpmi.testing
    from dpmi.privacy import Partition, PrivacyEngine

    known = {"Partition": Partition, "engine": PrivacyEngine, "dpmi": dpmi}
    seen = 0
    for text in inline():
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
    assert seen >= 7


def test_the_study_example_is_a_study() -> None:
    (example,) = blocks("toml")
    spec = parse(example)
    assert len(spec.trials) == 3 * 3, "three seeds; no defence, and two strengths of one"


def test_it_is_short_and_names_no_machine() -> None:
    assert len(README.splitlines()) <= 175
    assert not re.search(r"/(work|home|root|Users)/", README)
